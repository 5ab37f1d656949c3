package main

import (
	"fmt"
	"io"

	"github.com/phonehost/phonehost/scripts/vm/lab"
)

type lockCmd struct{}

// Run resolves every package anew and prints what changed. Builds from now on use the new versions.
func (*lockCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	sets, err := l.Lock(r.ctx)
	if err != nil {
		return err
	}
	printChanges(r.out, sets)
	return nil
}

func printChanges(w io.Writer, sets []lab.Resolved) {
	changed := 0
	for _, s := range sets {
		switch {
		case s.First:
			fmt.Fprintf(w, "%s/%s: %d packages, resolved for the first time\n", s.Set, s.Arch, len(s.Packages))
			for _, p := range s.Named {
				fmt.Fprintf(w, "  %s %s\n", p.Name, p.Version)
			}
			changed++
		case len(s.Changes) > 0:
			fmt.Fprintf(w, "%s/%s:\n", s.Set, s.Arch)
			for _, line := range s.Changes {
				fmt.Fprintf(w, "  %s\n", line)
			}
			changed++
		}
	}
	if changed == 0 {
		fmt.Fprintf(w, "nothing changed: %d sets of packages are the newest\n", len(sets))
	}
}
