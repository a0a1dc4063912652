# The trainer's tests start ranks under mpirun themselves.
if(TARGET tests_training)
  target_compile_definitions(tests_training PRIVATE EM_MPIRUN="${MPIEXEC_EXECUTABLE}")
  set_tests_properties(tests_training PROPERTIES LABELS "unit;mpi" TIMEOUT 900)
endif()
# The job files of training/slurm with stand-ins for Slurm's commands.
add_test(NAME training_slurm COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/slurm_test.sh ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/tests/slurm)
set_tests_properties(training_slurm PROPERTIES LABELS unit TIMEOUT 120)
