// A fiber: a stack and a saved stack pointer. Every CUDA thread is one, and all of them share one operating system
// thread, so that a kernel's interleaving is decided by the scheduler and can be repeated.
#pragma once

#include <cstddef>

namespace llmcore::emu {

class Fiber {
  public:
    // Prepares a fresh run of body, which must never return, on the stack of this number.
    void start(void (*body)(), size_t stack_number);

    // Saves the caller in `from` and goes on in `to`. A fiber that has ended is never switched to again.
    static void switch_to(Fiber& from, Fiber& to, bool from_has_ended);

    // The first thing a body does: tells AddressSanitizer that the switch has happened.
    static void entered();

  private:
    void* state_ = nullptr;  // the saved stack pointer; with ucontext, the context
    char* stack_ = nullptr;  // null: the operating system's own stack
    const void* bounds_ = nullptr;
    size_t size_ = 0;
    void* fake_stack_ = nullptr;  // AddressSanitizer's
};

bool is_on_a_fiber_stack(const void* pointer);

}  // namespace llmcore::emu
