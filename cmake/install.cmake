# `make install` gives a relocatable prefix:
#   bin/                                  the programs
#   share/dinohpc/                        recipes, data set definitions, report assets, Slurm templates
#   share/man/man1/                       one page per program, from the program itself
#   share/bash-completion/completions/    commands and options
#   share/doc/dinohpc/                    README, the formats of all files, the changes, the licence
# The programs find share/dinohpc beside their own bin/ (src/base/version.cpp).
include(GNUInstallDirs)
set(programs)
foreach(name curate pretrain eval jobs)
  if(TARGET dino-${name})
    list(APPEND programs dino-${name})
  endif()
endforeach()
# Libraries outside of the system's folders (a cluster's MPI, say) are found again after the install.
set_target_properties(${programs} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS ${programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/share/ DESTINATION ${CMAKE_INSTALL_DATADIR}/dinohpc USE_SOURCE_PERMISSIONS
        PATTERN "completions" EXCLUDE PATTERN "man" EXCLUDE)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/dinohpc FILES_MATCHING PATTERN "*.in" PATTERN "*.cfg")
foreach(file LICENSE README.md CHANGELOG.md docs/formats.md docs/report.png)
  get_filename_component(folder ${file} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${file} DESTINATION ${CMAKE_INSTALL_DOCDIR}/${folder})
endforeach()

# Man pages come from the programs, so they cannot fall behind them.
set(man_pages)
foreach(program ${programs})
  set(page ${PROJECT_BINARY_DIR}/man/${program}.1)
  add_custom_command(OUTPUT ${page} COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/man
                     COMMAND $<TARGET_FILE:${program}> --man > ${page} DEPENDS ${program} VERBATIM
                     COMMENT "Writing the man page of ${program}")
  list(APPEND man_pages ${page})
  install(FILES ${PROJECT_SOURCE_DIR}/share/completions/dinohpc.bash
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${program})
endforeach()
if(NOT DINO_SANITIZE) # a sanitizer's report on a library's start-up must not fail the build
  add_custom_target(man_pages ALL DEPENDS ${man_pages})
  add_dependencies(programs man_pages)
endif()
install(FILES ${man_pages} OPTIONAL DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

# `make package`: that prefix as a tarball.
add_custom_target(package_tarball COMMAND bash ${PROJECT_SOURCE_DIR}/cmake/package.sh ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR}/build
                  DEPENDS programs VERBATIM USES_TERMINAL COMMENT "Packing the programs")
