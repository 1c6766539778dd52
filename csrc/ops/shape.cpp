#include "ops/shape.h"

#include "core/dispatch.h"
#include "kernels/shape.h"

namespace llmcore {
namespace {

// Calls f(backend, TypeTag<Word>) with the unsigned type of the tensor's element size.
template <class F>
void dispatch_words(const Tensor& x, F&& f) {
    dispatch_backend(x.device(), [&](auto backend) {
        if (size_of(x.dtype()) == 2)
            f(backend, TypeTag<uint16_t>{});
        else
            f(backend, TypeTag<uint32_t>{});
    });
}

int64_t checked_axis(const char* op, const Tensor& x, int64_t axis) {
    LLMCORE_CHECK(axis >= -x.dim() && axis < x.dim(), op, ": axis ", axis, " does not exist in shape ",
                  to_string(x.shape()));
    return axis < 0 ? axis + x.dim() : axis;
}

int64_t product(const Shape& shape, int64_t begin, int64_t end) {
    int64_t result = 1;
    for (int64_t i = begin; i < end; ++i) result *= shape[i];
    return result;
}

}  // namespace

Tensor permute(const Tensor& x, const std::vector<int64_t>& axes) {
    int64_t dims = x.dim();
    LLMCORE_CHECK(static_cast<int64_t>(axes.size()) == dims && dims <= kMaxPermuteDims, "permute: axes must name each ",
                  "of the ", dims, " axes of x once, at most ", kMaxPermuteDims, "; got ", to_string(axes));
    Permutation plan;
    for (int i = 0; i < kMaxPermuteDims; ++i) plan.size[i] = 1, plan.stride[i] = 0;
    Shape shape(dims);
    std::vector<bool> used(dims);
    for (int64_t i = 0; i < dims; ++i) {
        int64_t axis = checked_axis("permute", x, axes[i]);
        LLMCORE_CHECK(!used[axis], "permute: axis ", axes[i], " appears twice in ", to_string(axes));
        used[axis] = true;
        shape[i] = plan.size[kMaxPermuteDims - dims + i] = x.size(axis);
        plan.stride[kMaxPermuteDims - dims + i] = product(x.shape(), axis + 1, dims);
    }
    Tensor y = Tensor::empty(shape, x.dtype(), x.device());
    dispatch_words(x, [&](auto backend, auto tag) {
        using Word = typename decltype(tag)::type;
        permute(backend, static_cast<Word*>(y.raw()), static_cast<const Word*>(x.raw()), plan);
    });
    return y;
}

Tensor concat_tensors(const std::vector<Tensor>& tensors, int64_t axis) {
    LLMCORE_CHECK(!tensors.empty(), "concat: at least one tensor is needed");
    const Tensor& first = tensors[0];
    axis = checked_axis("concat", first, axis);
    Shape shape = first.shape();
    shape[axis] = 0;
    for (const Tensor& tensor : tensors) {
        check_dtype("concat", "every tensor", tensor, first.dtype());
        Shape expected = first.shape();
        if (tensor.dim() == first.dim()) expected[axis] = tensor.size(axis);
        check_shape("concat", "every tensor", tensor, expected);
        shape[axis] += tensor.size(axis);
    }
    Tensor y = Tensor::empty(shape, first.dtype(), first.device());
    int64_t rows = product(shape, 0, axis), inner = product(shape, axis + 1, y.dim()), done = 0;
    dispatch_words(y, [&](auto backend, auto tag) {
        using Word = typename decltype(tag)::type;
        for (const Tensor& tensor : tensors) {
            int64_t columns = tensor.size(axis) * inner;
            copy_rows(backend, static_cast<Word*>(y.raw()) + done, static_cast<const Word*>(tensor.raw()), rows,
                      columns, shape[axis] * inner, columns);
            done += columns;
        }
    });
    return y;
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t axis) {
    axis = checked_axis("split", x, axis);
    int64_t left = x.size(axis);
    bool fits = true;
    for (int64_t size : sizes) {
        fits = fits && size >= 0 && size <= left;
        if (fits) left -= size;
    }
    LLMCORE_CHECK(fits && left == 0, "split: sizes ", to_string(sizes), " must add up to ", x.size(axis),
                  ", the size of axis ", axis, " of ", to_string(x.shape()), ", and none may be negative");
    int64_t rows = product(x.shape(), 0, axis), inner = product(x.shape(), axis + 1, x.dim()), done = 0;
    std::vector<Tensor> pieces;
    for (int64_t size : sizes) {
        Shape shape = x.shape();
        shape[axis] = size;
        pieces.push_back(Tensor::empty(shape, x.dtype(), x.device()));
        dispatch_words(x, [&](auto backend, auto tag) {
            using Word = typename decltype(tag)::type;
            copy_rows(backend, static_cast<Word*>(pieces.back().raw()), static_cast<const Word*>(x.raw()) + done, rows,
                      size * inner, size * inner, x.size(axis) * inner);
        });
        done += size * inner;
    }
    return pieces;
}

}  // namespace llmcore
