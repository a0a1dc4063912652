# The kernels for AMX on emulated tiles: one more file of the program, compiled for AVX-512 as packed_amx.cpp is.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_sources(tests_backbone_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/emulated_amx.cpp)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/emulated_amx.cpp PROPERTIES COMPILE_OPTIONS "${EM_AVX512}" SKIP_PRECOMPILE_HEADERS ON)
endif()
