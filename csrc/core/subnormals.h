// Numbers below 1.2e-38 as zero. Processors take some hundred cycles for an operation on such a number, and training
// makes many: probabilities of unlikely ids, moments of rows that are rarely seen. The gradients of a linear
// cross-entropy whose logits spread over +-80 took six times as long with them (1,142 and 198 ms on two cores).
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace llmcore {

// While it lives, this thread reads and writes subnormal numbers as zero (x86-64; elsewhere they cost nothing extra and
// stay). dispatch_backend holds one; the pool's threads are started inside an op and inherit the mode (pthread_create).
class FlushSubnormals {
#if defined(__x86_64__)
  public:
    FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
    ~FlushSubnormals() { _mm_setcsr(before_); }
    FlushSubnormals(const FlushSubnormals&) = delete;
    FlushSubnormals& operator=(const FlushSubnormals&) = delete;

  private:
    static constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
    const unsigned before_;
#else
  public:
    FlushSubnormals() {}  // a constructor of its own, so that nobody warns of an unused variable
#endif
};

}  // namespace llmcore
