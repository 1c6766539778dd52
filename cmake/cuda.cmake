# Resolves LLMCORE_CUDA into LLMCORE_CUDA_BUILD (off, on or emulate) and compiles the CUDA backend.
#
# AUTO means on where there is an nvcc that can compile it, and off while the backend lacks families: a package that finds
# a GPU and then refuses to train on it would be worse than one that says at once that it runs on the CPU.
set(llmcore_lowest_nvcc 12.8) # cudaGetDriverEntryPointByVersion is from 12.5; below 12.8 nothing was tried
string(TOUPPER "${LLMCORE_CUDA}" LLMCORE_CUDA)
if(NOT LLMCORE_CUDA MATCHES "^(AUTO|ON|OFF|EMULATE)$")
    message(FATAL_ERROR "LLMCORE_CUDA must be AUTO, ON, OFF or EMULATE, got ${LLMCORE_CUDA}")
endif()

# llmcore_look_for_nvcc(reason): sets `reason` to what speaks against a CUDA build, or to nothing.
function(llmcore_look_for_nvcc reason)
    set(${reason} "" PARENT_SCOPE)
    file(GLOB contracts "${CMAKE_CURRENT_SOURCE_DIR}/csrc/kernels/*.h")
    foreach(contract IN LISTS contracts)
        get_filename_component(family "${contract}" NAME_WE)
        if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/${family}.cu")
            set(${reason} "${family} has no CUDA kernels yet" PARENT_SCOPE)
            return()
        endif()
    endforeach()
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
        set(${reason} "no nvcc that works with ${CMAKE_CXX_COMPILER} was found" PARENT_SCOPE)
        return()
    endif()
    find_package(CUDAToolkit QUIET)
    if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cudart_static)
        set(${reason} "${CMAKE_CUDA_COMPILER} comes without its toolkit's static runtime" PARENT_SCOPE)
    elseif(CUDAToolkit_VERSION VERSION_LESS llmcore_lowest_nvcc)
        set(${reason} "nvcc ${CUDAToolkit_VERSION} is older than ${llmcore_lowest_nvcc}" PARENT_SCOPE)
    endif()
endfunction()

if(LLMCORE_CUDA STREQUAL AUTO)
    llmcore_look_for_nvcc(llmcore_no_cuda)
    if(llmcore_no_cuda)
        message(STATUS "LLMCORE_CUDA=AUTO: without the CUDA backend, because ${llmcore_no_cuda}")
        set(LLMCORE_CUDA_BUILD off)
    else()
        message(STATUS "LLMCORE_CUDA=AUTO: with the CUDA backend, by ${CMAKE_CUDA_COMPILER}")
        set(LLMCORE_CUDA_BUILD on)
    endif()
else()
    string(TOLOWER "${LLMCORE_CUDA}" LLMCORE_CUDA_BUILD)
endif()

file(GLOB cuda_host_sources CONFIGURE_DEPENDS csrc/cuda/*.cpp)
file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
set(cuda_sm90_sources ${cuda_sources})
list(FILTER cuda_sm90_sources INCLUDE REGEX "_sm90\\.cu$")
list(FILTER cuda_sources EXCLUDE REGEX "_sm90\\.cu$")

# The families that have CUDA kernels, by their sources: csrc/cuda/layernorm.cu is layernorm's. csrc/ops/<family>.cpp is
# told whether it is among them (core/dispatch.h).
file(GLOB op_sources CONFIGURE_DEPENDS csrc/ops/*.cpp)
set(cuda_families "")
foreach(source IN LISTS op_sources)
    get_filename_component(family "${source}" NAME_WE)
    set(has_cuda 0)
    if(NOT LLMCORE_CUDA_BUILD STREQUAL off AND EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/${family}.cu")
        set(has_cuda 1)
        list(APPEND cuda_families ${family})
    endif()
    set_source_files_properties(${source} PROPERTIES
        COMPILE_DEFINITIONS "LLMCORE_FAMILY=\"${family}\";LLMCORE_FAMILY_HAS_CUDA=${has_cuda}")
endforeach()
list(JOIN cuda_families ", " LLMCORE_CUDA_FAMILIES)

if(LLMCORE_CUDA_BUILD STREQUAL on)
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
        message(FATAL_ERROR "LLMCORE_CUDA=ON: nvcc was not found; put it on PATH or name it in CUDACXX")
    endif()
    # Both have to stand before the language is enabled. 80 is code for sm_80 and PTX for what comes later.
    set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    find_package(CUDAToolkit ${llmcore_lowest_nvcc} REQUIRED)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know yet that nvcc has C++20
        set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
        set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
elseif(LLMCORE_CUDA_BUILD STREQUAL emulate)
    include(cmake/emulator.cmake)
    # g++ compiles the kernels as they are.
    set_source_files_properties(${cuda_sources} ${cuda_sm90_sources} PROPERTIES LANGUAGE CXX)
endif()

# llmcore_add_cuda_backend(library): the CUDA backend becomes a part of `library`.
function(llmcore_add_cuda_backend library)
    llmcore_add_cuda_part(${library} llmcore_cuda ${cuda_host_sources} ${cuda_sources})
    if(cuda_sm90_sources)
        # Architectures belong to a target: what needs wgmma and TMA is compiled for 90a only.
        llmcore_add_cuda_part(${library} llmcore_cuda_sm90 ${cuda_sm90_sources})
        set_target_properties(llmcore_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real)
    endif()
    target_link_libraries(${library} PUBLIC CUDA::cudart_static)
endfunction()

function(llmcore_add_cuda_part library part)
    add_library(${part} OBJECT ${ARGN})
    target_include_directories(${part} PRIVATE csrc)
    target_compile_definitions(${part} PRIVATE LLMCORE_WITH_CUDA=1)
    target_compile_options(${part} PRIVATE
        $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Wall,-Wextra>
        $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Werror>)
    target_link_libraries(${part} PRIVATE CUDA::cudart_static)
    target_sources(${library} PRIVATE $<TARGET_OBJECTS:${part}>)
endfunction()

# llmcore_add_emulated_backend(library emulator build [flags...]): the same, compiled by g++ with these flags for the
# emulator of this name (cmake/emulator.cmake).
function(llmcore_add_emulated_backend library emulator build)
    add_library(llmcore_cuda_${build} OBJECT ${cuda_host_sources} ${cuda_sources} ${cuda_sm90_sources})
    target_compile_definitions(llmcore_cuda_${build} PRIVATE LLMCORE_WITH_CUDA=1)
    target_compile_options(llmcore_cuda_${build} PRIVATE -Wall -Wextra -Wshadow -Wno-psabi -Werror -g ${ARGN})
    target_link_libraries(llmcore_cuda_${build} PRIVATE ${emulator})
    target_sources(${library} PRIVATE $<TARGET_OBJECTS:llmcore_cuda_${build}>)
    target_link_libraries(${library} PUBLIC ${emulator})
endfunction()
