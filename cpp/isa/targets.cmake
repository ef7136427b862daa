# The one place that knows ISA -> flags. Best first: the first that this CPU has is chosen at import.
#
#   name | processor | flags (spelled out: never -march=native, the wheel must say what it needs) | base | sources, by commas
#
# Sources are GT_KERNEL_SOURCES unless a line names its own: then it is an extension, whose few kernels replace those of
# its base, another line.
#
# Adding an ISA: one line here and one case in cpu_features.cpp.
set(GT_ISA_TABLE
  "amx|x86_64|-mamx-tile -mamx-bf16 -mavx512f -mavx512cd -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma -mf16c -mbmi -mbmi2 -mprefer-vector-width=512|avx512|cpp/kernels/gemm_amx.cpp,cpp/kernels/panel_amx.cpp"
  "avx512|x86_64|-mavx512f -mavx512cd -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma -mf16c -mbmi -mbmi2 -mprefer-vector-width=512"
  "avx2|x86_64|-mavx2 -mfma -mf16c -mbmi -mbmi2"
  "portable|any|")

# For tests only, in no public list: the sources of the matrix unit with its instructions, and those of AVX-512, in plain
# C++ (kernels/amx_instructions.h), so that they run on machines that have neither.
set(GT_TEST_ISA_TABLE
  "amx_emulated|x86_64|-Wno-psabi -Wframe-larger-than=32768|portable|cpp/kernels/gemm_amx.cpp,cpp/kernels/panel_amx.cpp"
  "amx_emulated_avx512|x86_64|-mavx512f -mavx512cd -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma -mf16c -mbmi -mbmi2 -mprefer-vector-width=512|avx512|cpp/kernels/gemm_amx.cpp,cpp/kernels/panel_amx.cpp")

set(GT_KERNEL_SOURCES
  cpp/kernels/activation.cpp
  cpp/kernels/ensemble.cpp
  cpp/kernels/gemm.cpp
  cpp/kernels/gru_pointwise.cpp
  cpp/kernels/layer_norm.cpp
  cpp/kernels/lstm_pointwise.cpp
  cpp/kernels/math.cpp
  cpp/kernels/panel.cpp
  cpp/kernels/peak.cpp
  cpp/kernels/qr.cpp
  cpp/kernels/random.cpp
  cpp/kernels/reduce.cpp
  cpp/kernels/rnn_pointwise.cpp
  cpp/kernels/rows.cpp
  cpp/kernels/table.cpp)

# -ffp-contract=fast: `a * b + c` is one FMA where the ISA has it. Never -ffast-math: NaN must survive.
# -fwrapv: exponents are taken out of floats as integers, and those of arguments that no logarithm has may wrap.
# Loops that copy a few vectors stay loops: GCC would call memcpy, or repeat a string instruction, for 64 bytes.
set(GT_KERNEL_OPTIONS -O3 -fwrapv -ffp-contract=fast -fno-math-errno -fno-exceptions -fno-rtti -fvisibility=hidden -fno-lto)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND GT_KERNEL_OPTIONS -fno-tree-loop-distribute-patterns)
endif()

set(GT_ISAS "" CACHE STRING "Only these instruction sets of the table, for a quick build; empty: all of them")

include(CheckCXXCompilerFlag)

# One object library a line from the same sources; the lines that compiled go to isa_list.inc for dispatch.cpp.
function(gt_add_isa_objects target)
  set(entries "")
  foreach(line IN LISTS GT_ISA_TABLE GT_TEST_ISA_TABLE)
    string(REPLACE "|" ";" fields "${line}")
    list(GET fields 0 name)
    list(GET fields 1 processor)
    list(GET fields 2 flags)
    set(sources ${GT_KERNEL_SOURCES})
    set(entry "GT_ISA_ENTRY(${name})")
    set(base ${name})
    list(LENGTH fields count)
    if(count GREATER 3)
      list(GET fields 3 base)
      list(GET fields 4 sources)
      string(REPLACE "," ";" sources "${sources}")
      set(entry "GT_ISA_EXTENSION(${name}, ${base})")
      if(line IN_LIST GT_TEST_ISA_TABLE)
        set(entry "GT_ISA_FOR_TESTS(${name}, ${base})")
      endif()
    endif()
    if(GT_ISAS AND NOT name IN_LIST GT_ISAS)
      continue()
    endif()
    if(NOT processor STREQUAL "any" AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(${processor}|AMD64)$")
      continue()
    endif()
    if(flags)
      check_cxx_compiler_flag("${flags}" GT_HAS_${name})
      if(NOT GT_HAS_${name})
        message(WARNING "gradtrace: the compiler lacks ${flags}; built without ${name}")
        continue()
      endif()
    endif()
    separate_arguments(flag_list UNIX_COMMAND "${flags}")
    add_library(gt_kernels_${name} OBJECT ${sources})
    target_include_directories(gt_kernels_${name} PRIVATE cpp)
    target_compile_features(gt_kernels_${name} PRIVATE cxx_std_20)
    target_compile_definitions(gt_kernels_${name} PRIVATE GT_ISA=${name} GT_BASE=${base})
    target_compile_options(gt_kernels_${name} PRIVATE ${GT_KERNEL_OPTIONS} ${GT_WARNINGS} ${flag_list})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # GCC's own AVX-512 headers read undefined registers on purpose.
      target_compile_options(gt_kernels_${name} PRIVATE -Wno-uninitialized -Wno-maybe-uninitialized)
    endif()
    set_target_properties(gt_kernels_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF)
    target_link_libraries(${target} PRIVATE gt_kernels_${name})
    string(APPEND entries "${entry}\n")
  endforeach()
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/isa_list.inc" CONTENT "${entries}")
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/generated")
endfunction()

# Every ISA must draw the same random bits: no FMA there.
set_source_files_properties(cpp/kernels/random.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
