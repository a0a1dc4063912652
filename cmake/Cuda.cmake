# Preset cuda: libeuromodal_cuda.so for Hopper (sm_90a) from the .cu files of backbone/kernels and backbone/cuda. Needs a CUDA 13 toolkit, no GPU, no driver.
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)          # else the library gets a second, static CUDA runtime
set(CMAKE_CUDA_ARCHITECTURES 90a-real)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)    # CMake 3.25 does not know nvcc 13's flag
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)

function(euromodal_cuda_library)
  file(GLOB_RECURSE kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/backbone/kernels/*.cu)
  add_library(em_cuda_kernels STATIC ${kernels})   # one library of device code, no torch in sight
  set_target_properties(em_cuda_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(em_cuda_kernels PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(em_cuda_kernels PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -lineinfo -Xfatbin=-compress-all -Xcompiler=-fPIC>)

  find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} REQUIRED)
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} REQUIRED)
  file(GLOB glue CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/backbone/cuda/*.cpp ${CMAKE_SOURCE_DIR}/training/dist/nccl/*.cpp)
  add_library(euromodal_cuda MODULE ${glue})
  euromodal_compile_options(euromodal_cuda)
  target_include_directories(euromodal_cuda SYSTEM PRIVATE ${NCCL_INCLUDE})
  target_link_libraries(euromodal_cuda PRIVATE euromodal em_cuda_kernels fmt::fmt torch::torch_cuda ${NCCL_LIBRARY})
  target_link_options(euromodal_cuda PRIVATE LINKER:--no-as-needed)   # else libtorch_cuda, which registers itself, is dropped
  add_dependencies(euromodal_program euromodal_cuda)
endfunction()
