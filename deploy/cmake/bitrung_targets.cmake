# How every target of the tree is declared. The link lists say the architecture: EXPOSES is what a target's headers use,
# LINKS is what only its sources use. Unknown arguments are errors.

add_library(bitrung_warnings INTERFACE)
target_compile_options(bitrung_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wswitch-enum -Werror
  # Of clang alone: BITRUNG_CHECK(!"why") is meant.
  $<$<CXX_COMPILER_ID:Clang>:-Wno-string-conversion>)

add_library(bitrung_options INTERFACE)
target_compile_features(bitrung_options INTERFACE cxx_std_20)
target_include_directories(bitrung_options INTERFACE ${PROJECT_SOURCE_DIR})
if(BITRUNG_SANITIZE)
  target_compile_options(bitrung_options INTERFACE -fsanitize=${BITRUNG_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(bitrung_options INTERFACE -fsanitize=${BITRUNG_SANITIZE})
endif()
find_program(BITRUNG_MOLD mold)
if(BITRUNG_MOLD)
  target_link_options(bitrung_options INTERFACE -fuse-ld=mold)
endif()

function(_bitrung_reject_unknown what)
  if(ARGN)
    message(FATAL_ERROR "${what}: unknown arguments ${ARGN}")
  endif()
endfunction()

# bitrung_library(name SOURCES … [EXPOSES …] [LINKS …])
function(bitrung_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;EXPOSES;LINKS")
  _bitrung_reject_unknown("bitrung_library(${name})" ${arg_UNPARSED_ARGUMENTS})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC bitrung_options ${arg_EXPOSES} PRIVATE ${arg_LINKS} bitrung_warnings)
endfunction()

# bitrung_program(name SOURCES … [LINKS …])
function(bitrung_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINKS")
  _bitrung_reject_unknown("bitrung_program(${name})" ${arg_UNPARSED_ARGUMENTS})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE bitrung_options ${arg_LINKS} bitrung_warnings)
  install(TARGETS ${name} RUNTIME)
endfunction()

# bitrung_test(name SOURCES … [LINKS …] [LABELS …]): a GoogleTest program, one ctest entry per test program.
function(bitrung_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINKS;LABELS")
  _bitrung_reject_unknown("bitrung_test(${name})" ${arg_UNPARSED_ARGUMENTS})
  find_package(GTest REQUIRED)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE bitrung_options ${arg_LINKS} GTest::gmock GTest::gtest_main bitrung_warnings)
  add_test(NAME ${name} COMMAND ${name})
  set(timeout 600)
  if(BITRUNG_SANITIZE)
    set(timeout 3600)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${timeout})
endfunction()
