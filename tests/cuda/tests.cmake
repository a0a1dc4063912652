# CUDA without a GPU: every .cu compiles for sm_90a where a toolkit is; in preset cuda the library loads (with empty stand-ins for the three libraries of
# LibTorch that a toolkit lacks) and reports that there is no device.
find_program(EUROMODAL_NVCC nvcc HINTS /usr/local/cuda/bin)
if(EUROMODAL_NVCC)
  file(GLOB_RECURSE cuda_files RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/backbone/*.cu)
  foreach(file IN LISTS cuda_files)
    get_filename_component(name ${file} NAME_WE)
    add_test(NAME cuda_compiles_${name} COMMAND ${EUROMODAL_NVCC} -std=c++20 -arch=sm_90a --expt-relaxed-constexpr -I${CMAKE_SOURCE_DIR} -cubin
      -o ${CMAKE_BINARY_DIR}/tests/${name}.cubin ${CMAKE_SOURCE_DIR}/${file})
    set_tests_properties(cuda_compiles_${name} PROPERTIES LABELS cuda TIMEOUT 300)
  endforeach()
endif()
if(EUROMODAL_CUDA)
  add_test(NAME cuda_library_loads COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/library_loads_test.sh $<TARGET_FILE:euromodal_program> ${CMAKE_BINARY_DIR}/tests/cuda_stubs)
  set_tests_properties(cuda_library_loads PROPERTIES LABELS cuda TIMEOUT 120)
endif()
