#include "core/index_check.h"

#include "core/cuda_device.h"

namespace llmcore {

void check_indices(const Tensor& ids, const IndexRule& rule) {
    check_dtype(rule.op, rule.name, ids, DType::kInt32);
    if constexpr (kWithCuda) {
        if (ids.device().type == DeviceType::kCuda) {
            cuda::check_indices(static_cast<const int32_t*>(ids.raw()), ids.numel(), rule, ids.device().index);
            return;
        }
    }
    const int32_t* values = ids.data<int32_t>();
    for (int64_t i = 0; i < ids.numel(); ++i)
        if ((values[i] < 0 || values[i] >= rule.rows) && values[i] != rule.ignored)
            throw std::out_of_range(rule.sentence(rule, i, values[i]));
}

}  // namespace llmcore
