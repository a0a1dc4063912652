# One object library per layer, all of them linked into one libeuromodal.so. A layer names the layers it may use; an #include of
# any other folder of ours stops the configure step (DESIGN: "layers point one way").
#
#   euromodal_layer(NAME backbone/nn USES core backbone/kernels [TORCH] [LINK lib...])
#
# takes every .cpp of the folder (not of its sub-folders that are layers themselves). TORCH: compiled with LibTorch's headers and
# the shared precompiled header. USES is closed under itself: using backbone/nn lets you include what backbone/nn may include.
set_property(GLOBAL PROPERTY EM_LAYERS "")

function(euromodal_target_name folder out)
  string(REPLACE "/" "_" name "em_${folder}")
  set(${out} ${name} PARENT_SCOPE)
endfunction()

# Compile options of everything that is ours.
function(euromodal_compile_options target)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>)
  if(EUROMODAL_SANITIZE)
    # GCC 12 sees uninitialised members in <regex> and std::variant under a sanitizer that are none.
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${EUROMODAL_SANITIZE} -fno-sanitize=vptr -Wno-maybe-uninitialized>)
    target_link_options(${target} PRIVATE -fsanitize=${EUROMODAL_SANITIZE})
  endif()
endfunction()

# Stops when a file of `folder` includes a folder of ours that is not in `allowed`.
function(euromodal_check_includes folder allowed files)
  get_property(all GLOBAL PROPERTY EM_FOLDERS)
  foreach(file IN LISTS files)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${file})
    file(STRINGS ${CMAKE_SOURCE_DIR}/${file} lines REGEX "^#include \"[a-z_]+/")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^#include \"([^\"]+)/[^/\"]+\".*" "\\1" used "${line}")
      # the deepest layer folder that holds the header
      while(NOT used IN_LIST all AND used MATCHES "/")
        string(REGEX REPLACE "/[^/]+$" "" used "${used}")
      endwhile()
      if(NOT used IN_LIST allowed)
        message(FATAL_ERROR "${file} (layer ${folder}) may not include ${line}: layer ${used} is not one of: ${allowed}")
      endif()
    endforeach()
  endforeach()
endfunction()

function(euromodal_layer)
  cmake_parse_arguments(A "TORCH" "NAME" "USES;LINK;EXCLUDE" ${ARGN})
  get_property(all GLOBAL PROPERTY EM_FOLDERS)
  set(allowed ${A_NAME} ${A_USES})
  foreach(used IN LISTS A_USES)
    euromodal_target_name(${used} used_target)
    if(NOT TARGET ${used_target})
      message(FATAL_ERROR "layer ${A_NAME} uses ${used}, which is not above it")
    endif()
    get_target_property(more ${used_target} EM_ALLOWED)
    list(APPEND allowed ${more})
  endforeach()
  list(REMOVE_DUPLICATES allowed)

  file(GLOB_RECURSE files RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${A_NAME}/*.h ${CMAKE_SOURCE_DIR}/${A_NAME}/*.cpp)
  foreach(other IN LISTS all A_EXCLUDE)            # files of layers inside this folder are not ours
    if(other MATCHES "^${A_NAME}/")
      list(FILTER files EXCLUDE REGEX "^${other}/")
    endif()
  endforeach()
  euromodal_check_includes(${A_NAME} "${allowed}" "${files}")
  list(FILTER files INCLUDE REGEX "\\.cpp$")
  if(NOT files)
    set(files cmake/empty.cpp)
  endif()

  euromodal_target_name(${A_NAME} target)
  add_library(${target} OBJECT ${files})
  set_target_properties(${target} PROPERTIES EM_ALLOWED "${allowed}")
  euromodal_compile_options(${target})
  target_link_libraries(${target} PRIVATE fmt::fmt ${A_LINK})
  if(A_TORCH)
    target_link_libraries(${target} PRIVATE torch::torch_cpu)
    target_compile_options(${target} PRIVATE -fopenmp)   # else at::parallel_for is serial
    target_precompile_headers(${target} REUSE_FROM em_pch)
  endif()
  set_property(GLOBAL APPEND PROPERTY EM_LAYERS ${target})
  set_property(GLOBAL APPEND PROPERTY EM_LINK ${A_LINK})
endfunction()

# One test program per folder of tests/: euromodal_test(backbone [LINK lib...]) makes tests_backbone from tests/backbone/*.cpp.
function(euromodal_test folder)
  cmake_parse_arguments(A "" "" "LINK;LABELS" ${ARGN})
  string(REPLACE "/" "_" name "tests_${folder}")
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${folder}/*_test.cpp)
  if(NOT files)
    return()
  endif()
  add_executable(${name} ${files})
  euromodal_compile_options(${name})
  target_compile_definitions(${name} PRIVATE EM_TEST_DIR="${CMAKE_SOURCE_DIR}/tests/${folder}" EM_SOURCE_DIR="${CMAKE_SOURCE_DIR}" EM_PROGRAM="$<TARGET_FILE:euromodal_program>")
  target_link_libraries(${name} PRIVATE euromodal torch::torch_cpu fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json GTest::gmock GTest::gtest_main ${A_LINK})
  target_compile_options(${name} PRIVATE -fopenmp)
  target_precompile_headers(${name} REUSE_FROM em_pch)
  add_dependencies(${name} euromodal_program euromodal_media)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  set_tests_properties(${name} PROPERTIES LABELS "unit;${A_LABELS}")
endfunction()
