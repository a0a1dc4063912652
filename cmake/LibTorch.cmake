# Imported targets torch::c10 and torch::torch_cpu (and torch::c10_cuda, torch::torch_cuda with EUROMODAL_CUDA).
# Not TorchConfig.cmake: that one enables CUDA and looks for Python. -idirafter, because LibTorch's include folder also holds
# fmt, pybind11, dnnl, ... and must lose against the system's.
set(LIBTORCH_ROOT "${CMAKE_SOURCE_DIR}/.deps/torch" CACHE PATH "LibTorch: the folder that holds include/ and lib/")
if(NOT EXISTS "${LIBTORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "no LibTorch in ${LIBTORCH_ROOT}: run scripts/setup, or give one with EUROMODAL_LIBTORCH=DIR scripts/build")
endif()

function(euromodal_import_torch name)
  add_library(torch::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(torch::${name} PROPERTIES IMPORTED_LOCATION "${LIBTORCH_ROOT}/lib/lib${name}.so" IMPORTED_SONAME "lib${name}.so")
endfunction()

euromodal_import_torch(c10)
euromodal_import_torch(torch_cpu)
target_compile_options(torch::c10 INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${LIBTORCH_ROOT}/include -idirafter ${LIBTORCH_ROOT}/include/torch/csrc/api/include>")
target_link_options(torch::c10 INTERFACE LINKER:--allow-shlib-undefined)
target_link_libraries(torch::torch_cpu INTERFACE torch::c10)
if(EUROMODAL_CUDA)
  euromodal_import_torch(c10_cuda)
  euromodal_import_torch(torch_cuda)
  target_include_directories(torch::c10_cuda SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(torch::c10_cuda INTERFACE torch::c10)
  target_link_libraries(torch::torch_cuda INTERFACE torch::torch_cpu torch::c10_cuda)
endif()
