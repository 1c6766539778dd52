#include "ops/norm.h"

#include "core/dispatch.h"
#include "kernels/norm.h"

namespace llmcore {

Tensor global_norm(const std::vector<Tensor>& tensors) {
    Device device = tensors.empty() ? Device{} : tensors[0].device();
    int64_t pieces = 0;
    for (const Tensor& tensor : tensors) {
        check_dtype("global_norm", "every tensor", tensor, DType::kFloat32);
        pieces += norm_pieces(tensor.numel());
    }
    Tensor norm = Tensor::empty({1}, DType::kFloat32, device);
    Tensor workspace = float_workspace(2 * static_cast<size_t>(pieces), device);  // a double is two floats wide
    double* partial = static_cast<double*>(workspace.raw());
    dispatch_backend(device, [&](auto backend) {
        int64_t done = 0;
        for (const Tensor& tensor : tensors) {
            squared_norm_pieces(backend, partial + done, tensor.data<float>(), tensor.numel());
            done += norm_pieces(tensor.numel());
        }
        norm_of_pieces(backend, norm.data<float>(), partial, pieces);
    });
    return norm;
}

Tensor clip_factor(const Tensor& norm, double max_norm) {
    check_dtype("clip_factor", "norm", norm, DType::kFloat32);
    check_shape("clip_factor", "norm", norm, {1});
    LLMCORE_CHECK(max_norm >= 0, "clip_factor: max_norm must be 0 or more, got ", max_norm);
    Tensor factor = Tensor::empty({1}, DType::kFloat32, norm.device());
    dispatch_backend(norm.device(), [&](auto backend) {
        clip_factor(backend, factor.data<float>(), norm.data<float>(), static_cast<float>(max_norm));
    });
    return factor;
}

Tensor all_finite(const Tensor& x) {
    check_float("all_finite", "x", x);
    Tensor flag = Tensor::empty({1}, DType::kInt32, x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        all_finite(backend, flag.data<int32_t>(), x.data<T>(), x.numel());
    });
    return flag;
}

}  // namespace llmcore
