# Resolves LLMCORE_CUDA into LLMCORE_CUDA_BUILD (off, on or emulate). The CUDA backend is not part of the library yet, so AUTO
# means off with or without nvcc, and asking for it is an error rather than a package that lacks what was asked for.
string(TOUPPER "${LLMCORE_CUDA}" LLMCORE_CUDA)
if(NOT LLMCORE_CUDA MATCHES "^(AUTO|ON|OFF|EMULATE)$")
    message(FATAL_ERROR "LLMCORE_CUDA must be AUTO, ON, OFF or EMULATE, got ${LLMCORE_CUDA}")
endif()
if(LLMCORE_CUDA MATCHES "^(ON|EMULATE)$")
    message(FATAL_ERROR "LLMCORE_CUDA=${LLMCORE_CUDA}: this version of llmcore has no CUDA backend yet; use AUTO or OFF")
endif()
set(LLMCORE_CUDA_BUILD "off")
