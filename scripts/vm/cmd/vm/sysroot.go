package main

import (
	"fmt"

	"github.com/phonehost/phonehost/scripts/vm/lab"
)

type sysrootCmd struct {
	Arch string `arg:"" help:"Architecture: amd64 or arm64."`
}

// Run builds a sysroot and prints where it is.
func (c *sysrootCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	dir, err := l.Sysroot(r.ctx, c.Arch)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(r.out, dir)
	return err
}
