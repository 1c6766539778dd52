// _core.Tensor: creation, conversion from and to NumPy, views.
#include "core/tensor.h"

#include <utility>

#include "bindings.h"
#include "core/allocator.h"
#include "ops/elementwise.h"

namespace py = pybind11;
using namespace llmcore;

namespace {

py::tuple shape_of(const Tensor& tensor) {
    py::tuple shape(tensor.dim());
    for (int64_t i = 0; i < tensor.dim(); ++i) shape[i] = tensor.size(i);
    return shape;
}

Tensor copy_array(const void* data, Shape shape, DType dtype) {
    Tensor tensor = Tensor::empty(std::move(shape), dtype, Device{});
    std::memcpy(tensor.raw(), data, tensor.nbytes());
    return tensor;
}

// Wide is the widest type of the array's signedness: a large uint64 would be negative as an int64, and -1 would fit.
template <class Wide>
Tensor copy_integers(const py::array& array, const Shape& shape) {
    auto values = py::array_t<Wide, py::array::c_style | py::array::forcecast>(array);
    Tensor tensor = Tensor::empty(shape, DType::kInt32, Device{});
    for (int64_t i = 0; i < tensor.numel(); ++i) {
        Wide value = values.data()[i];
        LLMCORE_CHECK(std::in_range<int32_t>(value), "from_numpy: ", value, " does not fit into int32");
        tensor.data<int32_t>()[i] = static_cast<int32_t>(value);
    }
    return tensor;
}

// float32 and int32 are copied, float64 and the other integers converted; an integer outside int32 is refused.
Tensor from_numpy(py::array array, std::optional<DType> dtype, const std::string& device) {
    Device target = parse_device(device);
    Shape shape(array.shape(), array.shape() + array.ndim());
    char kind = array.dtype().kind();
    LLMCORE_CHECK(kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b', "from_numpy: cannot read an array of ",
                  std::string(py::str(array.dtype())), "; expected floats or integers");
    Tensor tensor;
    if (kind == 'f') {
        auto values = py::array_t<float, py::array::c_style | py::array::forcecast>(array);
        tensor = copy_array(values.data(), shape, DType::kFloat32);
    } else {
        tensor = kind == 'u' ? copy_integers<uint64_t>(array, shape) : copy_integers<int64_t>(array, shape);
    }
    if (dtype && *dtype != tensor.dtype()) tensor = cast(tensor, *dtype);
    return tensor.to(target);
}

// A view of a tensor on the CPU: the array keeps the storage alive. A tensor on another device is copied; NumPy has no
// bfloat16, so that one becomes a float32 copy.
py::array to_numpy(const Tensor& tensor) {
    if (tensor.device() != Device{}) return to_numpy(tensor.to(Device{}));
    if (tensor.dtype() == DType::kBFloat16) return to_numpy(cast(tensor, DType::kFloat32));
    auto* owner = new std::shared_ptr<void>(tensor.storage());
    py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<void>*>(p); });
    auto type = tensor.dtype() == DType::kFloat32 ? py::dtype::of<float>() : py::dtype::of<int32_t>();
    return py::array(type, tensor.shape(), tensor.raw(), base);
}

// The bits of a bfloat16 tensor, for file formats: a uint16 view that keeps the storage alive; from another device, a
// copy.
py::array bf16_bits(const Tensor& tensor) {
    check_dtype("bf16_bits", "tensor", tensor, DType::kBFloat16);
    if (tensor.device() != Device{}) return bf16_bits(tensor.to(Device{}));
    auto* owner = new std::shared_ptr<void>(tensor.storage());
    py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<void>*>(p); });
    return py::array(py::dtype::of<uint16_t>(), tensor.shape(), tensor.raw(), base);
}

Tensor from_bf16_bits(const py::array_t<uint16_t, py::array::c_style>& bits, const std::string& device) {
    Device target = parse_device(device);
    return copy_array(bits.data(), Shape(bits.shape(), bits.shape() + bits.ndim()), DType::kBFloat16).to(target);
}

py::object item(const Tensor& tensor) {
    LLMCORE_CHECK(tensor.numel() == 1, "item: the tensor must have one element, got shape ", to_string(tensor.shape()));
    if (tensor.device() != Device{}) return item(tensor.to(Device{}));
    if (tensor.dtype() == DType::kInt32) return py::int_(*tensor.data<int32_t>());
    return py::float_(tensor.dtype() == DType::kFloat32 ? *tensor.data<float>() : to_float(*tensor.data<bf16>()));
}

std::string describe(const Tensor& tensor) {
    return concat("_core.Tensor(shape=", to_string(tensor.shape()), ", dtype=", name_of(tensor.dtype()),
                  ", device=", name_of(tensor.device()), ")");
}

}  // namespace

void bind_tensor(py::module_& m) {
    py::enum_<DType>(m, "DType")
        .value("float32", DType::kFloat32)
        .value("bfloat16", DType::kBFloat16)
        .value("int32", DType::kInt32);

    auto release = py::call_guard<py::gil_scoped_release>();
    // Functions of a reference, not pointers to members: those would take None for self, and dereference it.
    py::class_<Tensor> tensor(m, "Tensor");
    tensor.def_property_readonly("shape", &shape_of)
        .def_property_readonly("dtype", [](const Tensor& t) { return t.dtype(); })
        .def_property_readonly("device", [](const Tensor& t) { return name_of(t.device()); })
        .def_property_readonly("numel", [](const Tensor& t) { return t.numel(); })
        .def_property_readonly("nbytes", [](const Tensor& t) { return t.nbytes(); })
        .def_property_readonly("data_ptr", [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()); })
        .def("numpy", &to_numpy)
        .def("bf16_bits", &bf16_bits)
        .def("item", &item)
        .def(
            "view", [](const Tensor& t, Shape shape) { return t.view(std::move(shape)); }, py::arg("shape"))
        .def(
            "narrow", [](const Tensor& t, int64_t start, int64_t length) { return t.narrow(start, length); },
            py::arg("start"), py::arg("length"))
        .def("copy_", &copy_into, py::arg("source"), release)
        .def("fill_", &fill, py::arg("value"), release)
        .def("cast", &cast, py::arg("dtype"), release)
        .def(
            "to", [](const Tensor& t, const std::string& device) { return t.to(parse_device(device)); },
            py::arg("device"), release)
        .def(
            "clone", [](const Tensor& t) { return cast(t, t.dtype()); }, release)
        .def(
            "label", [](const Tensor& t, const std::string& what) { label_memory(t.storage(), what); }, py::arg("what"))
        .def("__repr__", &describe);
    bind_dlpack(m, tensor);

    m.def(
        "empty",
        [](Shape shape, DType dtype, const std::string& device) {
            return Tensor::empty(std::move(shape), dtype, parse_device(device));
        },
        py::arg("shape"), py::arg("dtype") = DType::kFloat32, py::arg("device") = "cpu");
    m.def(
        "zeros",
        [](Shape shape, DType dtype, const std::string& device) {
            return Tensor::zeros(std::move(shape), dtype, parse_device(device));
        },
        py::arg("shape"), py::arg("dtype") = DType::kFloat32, py::arg("device") = "cpu");
    m.def("from_bf16_bits", &from_bf16_bits, py::arg("bits"), py::arg("device") = "cpu");
    m.def("from_numpy", &from_numpy, py::arg("array"), py::arg("dtype") = py::none(), py::arg("device") = "cpu");
}
