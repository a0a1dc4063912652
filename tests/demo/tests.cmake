# The demo's own parts, each on a small scale: corpus, tokenizer, report. They need Debian's packages only, no trained model.
find_program(EUROMODAL_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
foreach(part corpus report)
  add_test(NAME demo_${part} COMMAND ${EUROMODAL_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/${part}_test.py)
  set_tests_properties(demo_${part} PROPERTIES LABELS demo TIMEOUT 120)
endforeach()
add_test(NAME demo_script COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/script_test.sh ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/tests/demo_script)
set_tests_properties(demo_script PROPERTIES LABELS demo TIMEOUT 60)
