#include "emu/fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The switch in assembly is for x86-64; other processors, and a test, take ucontext.
#if !defined(__x86_64__)
#define LLMCORE_EMULATE_UCONTEXT 1
#endif

#if LLMCORE_EMULATE_UCONTEXT
#include <ucontext.h>
#else
// Saves the callee-saved registers on the current stack and takes them from the other: all that a call has to keep.
// ucontext does the same through two system calls for the signal mask, at about eight times the price.
extern "C" void llmcore_emu_switch(void** save, void* load);
asm(R"(
.text
.globl llmcore_emu_switch
.type llmcore_emu_switch, @function
llmcore_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size llmcore_emu_switch, .-llmcore_emu_switch
)");
#endif

namespace llmcore::emu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;  // red zones make frames larger
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
#if LLMCORE_EMULATE_UCONTEXT
constexpr size_t kContextBytes = (sizeof(ucontext_t) + 63) / 64 * 64;
#endif
constexpr size_t kGuardBytes = 4096, kStep = kStackBytes + kGuardBytes, kMaxStacks = 64 * 1024;

// One reservation for all stacks, each above a guard page; pages are committed when first touched.
char* arena = nullptr;
size_t guarded = 0;
Fiber* previous = nullptr;

char* stack_of(size_t number) {
    if (number >= kMaxStacks) throw std::bad_alloc();
    if (!arena) {
        void* memory = mmap(nullptr, kMaxStacks * kStep, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        arena = static_cast<char*>(memory);
    }
    for (; guarded <= number; ++guarded) mprotect(arena + guarded * kStep, kGuardBytes, PROT_NONE);
    return arena + number * kStep + kGuardBytes;
}

}  // namespace

bool is_on_a_fiber_stack(const void* pointer) {
    const char* p = static_cast<const char*>(pointer);
    return p >= arena && p < arena + kMaxStacks * kStep;
}

void Fiber::start(void (*body)(), size_t stack_number) {
    stack_ = stack_of(stack_number);
    bounds_ = stack_;
    size_ = kStackBytes;
    fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_,
                                  kStackBytes);  // no run ever returns: the last one's red zones are still there
#endif
#if LLMCORE_EMULATE_UCONTEXT
    // Below the stack, which makecontext is told to begin after it.
    auto* context = new (stack_) ucontext_t;
    getcontext(context);
    context->uc_stack.ss_sp = stack_ + kContextBytes;
    context->uc_stack.ss_size = kStackBytes - kContextBytes;
    context->uc_link = nullptr;
    makecontext(context, body, 0);
    state_ = context;
#else
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
    *--top = nullptr;  // the return address of body: it never returns
    *--top = reinterpret_cast<void*>(body);
    for (int i = 0; i < 6; ++i) *--top = nullptr;  // the registers that the first switch pops
    state_ = top;
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to, bool from_has_ended) {
    previous = &from;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from_has_ended ? nullptr : &from.fake_stack_, to.bounds_, to.size_);
#else
    (void)from_has_ended;
#endif
#if LLMCORE_EMULATE_UCONTEXT
    static ucontext_t outside;  // of the operating system's own stack
    if (from.state_ == nullptr) from.state_ = &outside;
    swapcontext(static_cast<ucontext_t*>(from.state_), static_cast<ucontext_t*>(to.state_));
#else
    llmcore_emu_switch(&from.state_, to.state_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
    const void* bounds;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bounds, &size);
    if (!previous->bounds_) previous->bounds_ = bounds, previous->size_ = size;
#endif
}

}  // namespace llmcore::emu
