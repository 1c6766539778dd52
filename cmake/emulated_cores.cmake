# Three more cores of an emulated build, for tests: each module is called _core like the package's own and lies in a folder
# of its own, emulated/<build>; tests/emu/build.py makes them, and LLMCORE_CORE makes tests/conftest.py load one. Only the
# kernels and the emulator are compiled again; the other parts are those of the package.
#
#   coverage   counts the lines of csrc/cuda that ran (gcov)
#   asan       AddressSanitizer and UBSan: the ends and the alignment of tensors and shared arrays
#   race       the compiler's thread instrumentation, answered by the emulator's race detector
set(asan_flags -fsanitize=address,undefined -fno-sanitize-recover=undefined)
llmcore_add_emulator(llmcore_emu_asan ${asan_flags} -O1)

function(llmcore_add_emulated_core build emulator)
    llmcore_add_library(llmcore_kernels_${build})
    llmcore_add_emulated_backend(llmcore_kernels_${build} ${emulator} ${build} ${ARGN})
    llmcore_add_module(core_${build} llmcore_kernels_${build})
    set_target_properties(core_${build} PROPERTIES OUTPUT_NAME _core EXCLUDE_FROM_ALL ON
                          LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/emulated/${build}")
    set_target_properties(llmcore_kernels_${build} llmcore_cuda_${build} PROPERTIES EXCLUDE_FROM_ALL ON)
endfunction()

llmcore_add_emulated_core(coverage llmcore_emu -O1 --coverage)
target_link_options(core_coverage PRIVATE --coverage)
llmcore_add_emulated_core(asan llmcore_emu_asan ${asan_flags} -O1)
target_link_options(core_asan PRIVATE -fsanitize=address,undefined)
# Compiled with the instrumentation but linked without ThreadSanitizer's library: the emulator is what the instrumented
# code calls. Below -O2 g++ 12 leaves stores of returned structures uninstrumented.
llmcore_add_emulated_core(race llmcore_emu -O2 -fsanitize=thread)
set_target_properties(llmcore_emu_asan PROPERTIES EXCLUDE_FROM_ALL ON)
