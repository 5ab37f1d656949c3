package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// shell is one run of a command, after Android's ShellCommand.
type shell struct {
	server   *Server
	in       int // the descriptor of the standard input
	out, err io.Writer
	args     []string
}

// handler is a command. Its error is an exception, or a code.
type handler func(ctx context.Context, sh *shell) error

// code is the exit code of a command that has said itself what is wrong.
type code int

func (c code) Error() string { return "exit code " + strconv.Itoa(int(c)) }

// exception is an error as Java would throw it.
type exception struct{ class, message string }

func (e exception) Error() string { return e.class + ": " + e.message }

func illegalArgument(format string, args ...any) error {
	return exception{"java.lang.IllegalArgumentException", fmt.Sprintf(format, args...)}
}

// run finds the command and runs it.
func (sh *shell) run(ctx context.Context, commands map[string]handler) int {
	name, ok := sh.next()
	h := commands[name]
	switch {
	case !ok || name == "help" || name == "-h":
		sh.printf("Commands: %s\n", strings.Join(slices.Sorted(maps.Keys(commands)), " "))
		return 0
	case h == nil:
		sh.errorf("Unknown command: %s\n", name)
		return 255
	}
	err := h(ctx, sh)
	var c code
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c):
		return int(c)
	}
	sh.errorf("\nException occurred while executing '%s':\n%v\n", name, err)
	return 255
}

// A caller that no longer reads its output changes nothing about the command.
func (sh *shell) printf(format string, args ...any) { _, _ = fmt.Fprintf(sh.out, format, args...) }
func (sh *shell) errorf(format string, args ...any) { _, _ = fmt.Fprintf(sh.err, format, args...) }

// next takes the next argument.
func (sh *shell) next() (string, bool) {
	if len(sh.args) == 0 {
		return "", false
	}
	arg := sh.args[0]
	sh.args = sh.args[1:]
	return arg, true
}

// option takes the next argument if it is an option. "-" is an argument, "--" ends the options.
func (sh *shell) option() (string, bool) {
	if len(sh.args) == 0 || len(sh.args[0]) < 2 || sh.args[0][0] != '-' {
		return "", false
	}
	opt, _ := sh.next()
	return opt, opt != "--"
}

// value takes the value of an option, or an argument that must be there.
func (sh *shell) value(what string) (string, error) {
	v, ok := sh.next()
	if !ok {
		return "", illegalArgument("Argument expected after %q", what)
	}
	return v, nil
}

func (sh *shell) number(what string) (int64, error) {
	v, err := sh.value(what)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, exception{"java.lang.NumberFormatException", fmt.Sprintf("For input string: %q", v)}
	}
	return n, nil
}

// allUsers is what --user all says.
const allUsers = -1

// user takes the value of --user.
func (sh *shell) user() (int, error) {
	v, err := sh.value("--user")
	switch {
	case err != nil:
		return 0, err
	case v == "all":
		return allUsers, nil
	case v == "current" || v == "cur":
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, illegalArgument("Bad user number: %s", v)
	}
	return n, nil
}

// checkUser says what is wrong with a user that does not exist.
func (sh *shell) checkUser(user int) error {
	if _, ok := sh.server.packages.Users()[user]; !ok && user != allUsers {
		return illegalArgument("User %d doesn't exist", user)
	}
	return nil
}
