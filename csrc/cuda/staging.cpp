#include "cuda/staging.h"

#include <cstring>
#include <map>
#include <mutex>

namespace llmcore::cuda {
namespace {

// A batch of token ids is some 100 KiB. What is larger, such as weights, comes seldom and may wait.
constexpr size_t kSlotBytes = size_t{1} << 20;
constexpr int kSlots = 4;

// One device's slots, used in turn. A slot is free again when the copy out of it has run.
class Staging {
  public:
    bool copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
        std::lock_guard lock(mutex_);
        if (bytes > kSlotBytes || !ready()) return false;
        const int slot = next_++ % kSlots;
        LLMCORE_CUDA_CHECK(cudaEventSynchronize(copied_[slot]));
        char* pinned = memory_ + static_cast<size_t>(slot) * kSlotBytes;
        std::memcpy(pinned, from, bytes);
        LLMCORE_CUDA_CHECK(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, stream));
        LLMCORE_CUDA_CHECK(cudaEventRecord(copied_[slot], stream));
        return true;
    }

  private:
    // At first use. An event that was never recorded counts as having happened.
    bool ready() {
        if (tried_) return memory_ != nullptr;
        tried_ = true;
        void* memory = nullptr;
        bool made = cudaHostAlloc(&memory, kSlots * kSlotBytes, cudaHostAllocDefault) == cudaSuccess;
        for (cudaEvent_t& event : copied_)
            made = made && cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess;
        (void)cudaGetLastError();
        if (made) memory_ = static_cast<char*>(memory);
        return made;
    }

    std::mutex mutex_;
    bool tried_ = false;
    char* memory_ = nullptr;
    cudaEvent_t copied_[kSlots] = {};
    unsigned next_ = 0;
};

}  // namespace

// Kept as long as the process, like the streams.
bool copy_through_staging(void* to, const void* from, size_t bytes, cudaStream_t stream, int device) {
    static auto* lock = new std::mutex;
    static auto* staging = new std::map<int, Staging>;
    Staging* ours = nullptr;
    {
        std::lock_guard guard(*lock);
        ours = &(*staging)[device];
    }
    return ours->copy(to, from, bytes, stream);
}

}  // namespace llmcore::cuda
