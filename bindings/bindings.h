// What the files of the Python module share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/tensor.h"

void bind_tensor(pybind11::module_& m);
void bind_dlpack(pybind11::module_& m, pybind11::class_<llmcore::Tensor>& tensor);
void bind_ops(pybind11::module_& m);
void bind_graph(pybind11::module_& m);
#if LLMCORE_EMULATE
void bind_emulator(pybind11::module_& m);
#endif
