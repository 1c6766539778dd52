# The CUDA emulator (csrc/emu): a static library and the settings of code that runs in it. Never part of the wheel; for
# tests and for LLMCORE_CUDA=EMULATE. It is compiled without -fsanitize=thread even for the race build of a kernel,
# whose instrumentation it answers itself.
get_filename_component(llmcore_csrc "${CMAKE_CURRENT_LIST_DIR}/../csrc" ABSOLUTE)
file(GLOB emulator_sources CONFIGURE_DEPENDS "${llmcore_csrc}/emu/*.cpp")

# llmcore_add_emulator(name [flags...]): the library `name`; what links it compiles kernels for the emulator.
function(llmcore_add_emulator name)
    add_library(${name} STATIC ${emulator_sources})
    target_include_directories(${name} PUBLIC "${llmcore_csrc}")
    target_compile_definitions(${name} PUBLIC LLMCORE_EMULATE=1)
    target_compile_features(${name} PUBLIC cxx_std_20)
    # The loops over a matrix instruction's elements need -O3 to become vectors.
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wshadow -Werror -g -O3 ${ARGN}
                           INTERFACE -Wno-unknown-pragmas) # unroll is nvcc's
    target_link_libraries(${name} PUBLIC ${CMAKE_DL_LIBS})
endfunction()
