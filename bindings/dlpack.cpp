// Arrays in and out without a copy: DLPack in both directions, and __cuda_array_interface__.
//
// All of llmcore's work on a GPU runs on one stream of ours. What goes out is ordered for the consumer's stream, which
// waits for ours, and when the consumer lets go, ours waits for its stream before the memory is used again. What comes
// in was ordered by its producer for our stream, and before we let go our stream has finished.
#include "dlpack.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "bindings.h"
#include "core/streams.h"
#include "core/tensor.h"
#include "ops/elementwise.h"

namespace py = pybind11;
using namespace llmcore;

namespace {

// ------------------------------------------------------------------------------------------------ types and devices

dlpack::DataType data_type_of(DType dtype) {
    switch (dtype) {
        case DType::kFloat32:
            return {dlpack::kFloat, 32, 1};
        case DType::kBFloat16:
            return {dlpack::kBfloat, 16, 1};
        default:
            return {dlpack::kInt, 32, 1};
    }
}

DType dtype_of(dlpack::DataType type) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt32}) {
        const dlpack::DataType ours = data_type_of(dtype);
        if (ours.code == type.code && ours.bits == type.bits && ours.lanes == type.lanes) return dtype;
    }
    const char* kind = type.code == dlpack::kFloat    ? "float"
                       : type.code == dlpack::kInt    ? "int"
                       : type.code == dlpack::kUInt   ? "uint"
                       : type.code == dlpack::kBool   ? "bool"
                       : type.code == dlpack::kBfloat ? "bfloat"
                                                      : "type ";
    throw std::invalid_argument(concat(
        "from_dlpack: the array holds ", kind, type.code == dlpack::kBool ? "" : std::to_string(type.bits),
        type.lanes > 1 ? " vectors" : "", "; memory is shared for float32, bfloat16 and int32 only: convert it first"));
}

dlpack::Device device_of(const Tensor& tensor) {
    if (tensor.device().type == DeviceType::kCpu) return {dlpack::kCpu, 0};
    return {dlpack::kCuda, tensor.device().index};
}

Device parse_dlpack_device(dlpack::Device device) {
    switch (device.type) {
        case dlpack::kCpu:
        case dlpack::kCudaHost:  // the CPU's own memory, pinned
            return Device{};
        case dlpack::kCuda:
        case dlpack::kCudaManaged:
            return parse_device(concat("cuda:", device.index));
        default:
            throw std::invalid_argument(concat("from_dlpack: the array is on a device of DLPack's type ", device.type,
                                               "; llmcore has the CPU (1) and CUDA (2)"));
    }
}

// ------------------------------------------------------------------------------------------------------------- out

constexpr uintptr_t kLegacyStream = 1, kNoStream = static_cast<uintptr_t>(-1);

// Makes the consumer's stream wait for what was computed so far. DLPack numbers the default streams 1 and 2, as CUDA
// does; None is the first of them, -1 asks for nothing.
uintptr_t order_for_consumer(const Tensor& tensor, const py::object& stream) {
    if (tensor.device().type == DeviceType::kCpu) {
        if (!stream.is_none() && py::cast<int64_t>(stream) != -1)
            throw py::buffer_error("__dlpack__: a tensor on the CPU has no stream; stream must be None");
        return kNoStream;
    }
    const int64_t wish = stream.is_none() ? int64_t{kLegacyStream} : py::cast<int64_t>(stream);
    if (wish < -1 || wish == 0)
        throw py::buffer_error(
            "__dlpack__: stream must be None, -1, 1, 2 or a CUDA stream's address, not 0, which "
            "could be either default stream");
    if (wish == -1) return kNoStream;
    let_stream_wait(static_cast<uintptr_t>(wish), tensor.device());
    return static_cast<uintptr_t>(wish);
}

// What a consumer holds: the tensor, and where the structure that it sees points to.
template <class Managed>
struct Export {
    Tensor tensor;
    uintptr_t stream;
    Shape shape, strides;
    Managed managed{};

    static void end(Managed* managed) {
        auto* self = static_cast<Export*>(managed->context);
        if (self->stream != kNoStream) wait_for_stream(self->stream, self->tensor.device());
        delete self;
    }
};

template <class Managed>
void end_unused(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, Managed::kName)) return;  // a consumer took it and calls the deleter itself
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kName));
    managed->deleter(managed);
}

template <class Managed>
py::object make_capsule(const Tensor& tensor, uintptr_t stream, bool copied) {
    auto owner = std::make_unique<Export<Managed>>();
    owner->tensor = tensor;
    owner->stream = stream;
    owner->shape = tensor.shape();
    owner->strides.resize(tensor.shape().size());
    int64_t step = 1;
    for (size_t axis = owner->strides.size(); axis-- > 0; step *= std::max<int64_t>(owner->shape[axis], 1))
        owner->strides[axis] = step;
    Managed& managed = owner->managed;
    managed.array = {tensor.raw(),
                     device_of(tensor),
                     static_cast<int32_t>(tensor.dim()),
                     data_type_of(tensor.dtype()),
                     owner->shape.data(),
                     owner->strides.data(),
                     0};
    managed.context = owner.get();
    managed.deleter = &Export<Managed>::end;
    if constexpr (std::is_same_v<Managed, dlpack::ManagedVersioned>) {
        managed.version = {1, 1};
        managed.flags = copied ? dlpack::ManagedVersioned::kIsCopied : 0;
    }
    PyObject* capsule = PyCapsule_New(&managed, Managed::kName, &end_unused<Managed>);
    if (capsule == nullptr) throw py::error_already_set();
    owner.release();
    return py::reinterpret_steal<py::object>(capsule);
}

py::object to_dlpack(const Tensor& tensor, const py::object& stream,
                     const std::optional<std::pair<uint32_t, uint32_t>>& max_version,
                     const std::optional<std::pair<int32_t, int32_t>>& device, const std::optional<bool>& copy) {
    Tensor shared = tensor;
    const dlpack::Device here = device_of(tensor);
    if (device && *device != std::pair{here.type, here.index}) {
        if (*device != std::pair<int32_t, int32_t>{dlpack::kCpu, 0} || (copy && !*copy))
            throw py::buffer_error("__dlpack__: the tensor is on " + name_of(tensor.device()) +
                                   ", and another device than the CPU, or any without a copy, is not to be had");
        shared = tensor.to(Device{});
    } else if (copy && *copy) {
        shared = cast(tensor, tensor.dtype());
    }
    const bool copied = shared.storage() != tensor.storage();
    const bool stays = shared.device() == tensor.device();
    const uintptr_t consumer = order_for_consumer(shared, stays ? stream : py::none());
    if (max_version && max_version->first >= 1) return make_capsule<dlpack::ManagedVersioned>(shared, consumer, copied);
    return make_capsule<dlpack::Managed>(shared, consumer, copied);
}

// -------------------------------------------------------------------------------------------------------------- in

void check_layout(const dlpack::Array& array, const Shape& shape, DType dtype) {
    LLMCORE_CHECK(reinterpret_cast<uintptr_t>(array.data) % size_of(dtype) == 0,
                  "from_dlpack: the array's memory is not aligned to its elements");
    if (array.strides == nullptr || numel_of(shape) == 0) return;
    int64_t step = 1;
    for (size_t axis = shape.size(); axis-- > 0; step *= shape[axis])
        LLMCORE_CHECK(shape[axis] == 1 || array.strides[axis] == step, "from_dlpack: an array of shape ",
                      to_string(shape),
                      " must lie in memory in row-major order without gaps; make it contiguous first");
}

// A tensor in the capsule's memory, which is given back with the last owner. Until all is checked the capsule stays the
// owner.
template <class Managed>
Tensor take(PyObject* capsule) {
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kName));
    if constexpr (std::is_same_v<Managed, dlpack::ManagedVersioned>) {
        if (managed->version.major != 1)
            throw py::buffer_error(concat("from_dlpack: the array speaks version ", managed->version.major,
                                          " of DLPack, llmcore version 1"));
        LLMCORE_CHECK((managed->flags & dlpack::ManagedVersioned::kReadOnly) == 0,
                      "from_dlpack: the array is read-only, and tensors can be written to; copy it first");
    }
    const dlpack::Array& array = managed->array;
    const Device device = parse_dlpack_device(array.device);
    const DType dtype = dtype_of(array.dtype);
    Shape shape(array.shape, array.shape + array.ndim);
    check_layout(array, shape, dtype);
    if (numel_of(shape) == 0) return Tensor::empty(shape, dtype, device);  // the capsule is freed as it is

    auto give_back = [managed, device](void*) {
        finish(device);
        if (!Py_IsInitialized()) return;
        py::gil_scoped_acquire gil;
        if (managed->deleter != nullptr) managed->deleter(managed);
    };
    char* data = static_cast<char*>(array.data) + array.byte_offset;
    if (PyCapsule_SetName(capsule, Managed::kUsedName) != 0) throw py::error_already_set();
    return Tensor::in_storage(std::shared_ptr<void>(data, give_back), std::move(shape), dtype, device);
}

py::object ask_for_capsule(const py::object& array) {
    if (!py::hasattr(array, "__dlpack__") || !py::hasattr(array, "__dlpack_device__"))
        throw py::type_error(concat("from_dlpack: expected an array with __dlpack__, got ",
                                    std::string(py::str(py::type::of(array).attr("__name__")))));
    const auto [type, index] = py::cast<std::pair<int32_t, int32_t>>(array.attr("__dlpack_device__")());
    const Device device = parse_dlpack_device({type, index});
    py::dict options;
    if (device.type == DeviceType::kCuda) options["stream"] = stream_address(device);
    try {
        return array.attr("__dlpack__")(**options, py::arg("max_version") = py::make_tuple(1, 1));
    } catch (py::error_already_set& error) {  // producers from before version 1 do not know the argument
        if (!error.matches(PyExc_TypeError)) throw;
    }
    return array.attr("__dlpack__")(**options);
}

Tensor from_dlpack(const py::object& array) {
    const py::object capsule = PyCapsule_CheckExact(array.ptr()) ? array : ask_for_capsule(array);
    if (PyCapsule_IsValid(capsule.ptr(), dlpack::ManagedVersioned::kName))
        return take<dlpack::ManagedVersioned>(capsule.ptr());
    LLMCORE_CHECK(PyCapsule_IsValid(capsule.ptr(), dlpack::Managed::kName),
                  "from_dlpack: this is no DLPack capsule, or one that was used already");
    return take<dlpack::Managed>(capsule.ptr());
}

// ---------------------------------------------------------------------------------------- __cuda_array_interface__

py::dict cuda_array_interface(const Tensor& tensor) {
    if (tensor.device().type == DeviceType::kCpu)
        throw py::attribute_error("__cuda_array_interface__: the tensor is on the CPU; use numpy() or DLPack");
    if (tensor.dtype() == DType::kBFloat16)
        throw py::attribute_error("__cuda_array_interface__ has no bfloat16; use DLPack");
    py::tuple shape(tensor.dim());
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) shape[axis] = tensor.size(axis);
    const uintptr_t address = tensor.numel() == 0 ? 0 : reinterpret_cast<uintptr_t>(tensor.raw());
    py::dict result;
    result["shape"] = shape;
    result["typestr"] = tensor.dtype() == DType::kFloat32 ? "<f4" : "<i4";
    result["data"] = py::make_tuple(address, false);
    result["version"] = 3;
    result["strides"] = py::none();
    result["stream"] = stream_address(tensor.device());
    return result;
}

}  // namespace

void bind_dlpack(py::module_& m, py::class_<Tensor>& tensor) {
    tensor
        .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
             py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
        .def("__dlpack_device__", [](const Tensor& t) { return py::make_tuple(device_of(t).type, device_of(t).index); })
        .def_property_readonly("__cuda_array_interface__", &cuda_array_interface);
    m.def("from_dlpack", &from_dlpack, py::arg("array"));
}
