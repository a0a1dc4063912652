# The trainer's tests start ranks under mpirun themselves.
if(TARGET tests_training)
  target_compile_definitions(tests_training PRIVATE EM_MPIRUN="${MPIEXEC_EXECUTABLE}")
  set_tests_properties(tests_training PROPERTIES LABELS "unit;mpi" TIMEOUT 900)
endif()
