# The house itself: layers point one way, the style holds, the scripts are sound.
add_test(NAME house_layers COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/layers_test.sh ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/tests/house_layers)
add_test(NAME house_lint COMMAND ${CMAKE_SOURCE_DIR}/scripts/lint)
set_tests_properties(house_layers house_lint PROPERTIES LABELS house TIMEOUT 120)
