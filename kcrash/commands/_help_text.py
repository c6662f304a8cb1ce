"""The pages of ``help input`` and ``help output``."""

from __future__ import annotations

INPUT = """
A line is a command and its arguments, separated by blanks.

  Words     Text in double or single quotes, and an expression in parentheses,
            are one argument. A single-quoted argument of "ps" and "foreach"
            is a regular expression. Numbers are decimal or hexadecimal as the
            command says; addresses are hexadecimal, with or without 0x.
  Options   Short options can be bundled (-xd), their values attached or
            separate, and they may follow other arguments; "--" ends them.
            Every command takes --json.
  Aliases   The first word is replaced if it is an alias ("help alias").
  Names     A first word that is no command is tried as the name of a symbol
            ("p"), structure ("struct"), union ("union") or typedef
            ("whatis"). "*name" is "struct name" or "union name". A backslash
            before the command prevents all this.
  Comments  Lines that start with "#" or "//" are ignored.

  < file            run the lines of a file
  command < file    run the command once for each line of arguments in a file
  !command          run a command in the shell
  !                 start a shell
  vi pwd grep cat more less echo ls clear
                    run in the shell without "!"

History in the interactive shell:

  h                 list the lines entered so far
  r, !!             run the last line again
  r 5, !5           run line 5 of the list again
  r text            run the last line that starts with the text again

  Up, Down, Ctrl-R, Tab and the keys of "set edit vi" or "set edit emacs" work
  as in other shells. The history is kept between sessions.

The files $HOME/.kcrashrc and ./.kcrashrc are run at the start, if they belong
to you and nobody else can write to them. "-i file" runs a file of commands,
"-c command" a command, and the standard input is read if it is no terminal."""

OUTPUT = """
Output to a terminal goes through a pager once it is longer than the screen:
$CRASHPAGER, $PAGER, less or more. Leaving the pager stops the command. "sf" or
"set scroll off" turns this off.

  command | shell commands     send the output to other programs
  command > file               write it to a file
  command >> file              append it to a file

Errors are shown on the terminal in any case; "set error redirect" sends them
along with the output, "set error file" to a file.

A row that cannot be had is shown as an error in its place, and the listing
goes on. The exit status of kcrash is 0 only if every command succeeded.

--json, as an option of kcrash or of any command, makes each row or record one
JSON object on a line, with "command" and "kind" first. Numbers are integers,
addresses are strings such as "0xffffffff81000000"."""
