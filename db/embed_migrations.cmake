# Writes OUTPUT, a C++ source with a FUNCTION that gives the files of DIRECTORY named NNNN_*.sql. Run by the build:
#   cmake -DDIRECTORY=… -DFUNCTION=… -DOUTPUT=… -P embed_migrations.cmake
# Numbers must run from 1 without a gap, because the version of a file is the number of its last migration.
cmake_policy(VERSION 3.25)

file(GLOB files "${DIRECTORY}/*.sql")
list(SORT files)

set(text "// Made by db/embed_migrations.cmake.\n#include \"db/schema.h\"\n\n")
string(APPEND text "namespace bitrung::db {\nnamespace {\n\nconstexpr Migration kMigrations[] = {\n")
set(expected 1)
foreach(file IN LISTS files)
  cmake_path(GET file FILENAME name)
  if(NOT name MATCHES "^([0-9][0-9][0-9][0-9])_[a-z0-9_]+\\.sql$")
    message(FATAL_ERROR "${file}: a migration is named NNNN_what_it_does.sql")
  endif()
  string(REGEX REPLACE "^0+" "" number "${CMAKE_MATCH_1}")
  if(NOT number STREQUAL expected)
    message(FATAL_ERROR "${file}: expected number ${expected}")
  endif()
  math(EXPR expected "${expected} + 1")
  file(READ "${file}" sql)
  string(APPEND text "    {${number}, \"${name}\", R\"bitrung_sql(${sql})bitrung_sql\"},\n")
endforeach()
string(APPEND text "};\n\n}  // namespace\n\nstd::span<const Migration> ${FUNCTION}() { return kMigrations; }\n\n")
string(APPEND text "}  // namespace bitrung::db\n")
file(WRITE "${OUTPUT}" "${text}")
