package property

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// ParseArgs reads properties from the arguments of init, as redroid gives them: "androidboot.NAME=VALUE" means ro.boot.NAME, any other
// "NAME=VALUE" is taken as it is. Arguments that are neither, or break a rule, are returned as one error each and left out of the list.
func ParseArgs(args []string) ([]Property, []error) {
	var list []Property
	var errs []error
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("argument %.140q is not NAME=VALUE: %w", arg, errdefs.ErrInvalidArgument))
			continue
		}
		if boot, ok := strings.CutPrefix(name, "androidboot."); ok {
			name = "ro.boot." + boot
		}
		if err := check(name, value); err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, Property{name, value})
	}
	return list, errs
}

// ParseBuildProp reads the format of Android's build.prop: one NAME=VALUE per line, empty lines and lines that begin with # left out.
// A line that breaks a rule is returned as an error with its number and left out of the list.
func ParseBuildProp(text string) ([]Property, []error) {
	var list []Property
	var errs []error
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			errs = append(errs, fmt.Errorf("line %d: not NAME=VALUE: %w", i+1, errdefs.ErrInvalidArgument))
			continue
		}
		if err := check(name, value); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
			continue
		}
		list = append(list, Property{name, value})
	}
	return list, errs
}
