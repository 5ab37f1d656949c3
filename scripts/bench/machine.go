package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// program is where the benchmarks' program is put in a machine.
const program = "/run/bench.test"

// where says in which machine the suite runs; "" on this host.
func (s suite) where() string {
	if s.in.Arch == "" {
		return ""
	}
	return " in a machine, " + s.in.String()
}

// inMachine runs the benchmarks in a machine of the VM lab, which waits for its turn where two run already, and returns what they print.
func (s suite) inMachine(ctx context.Context) (text []byte, err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	repo, err := gobuild.Repository()
	if err != nil {
		return nil, err
	}
	l, err := lab.Open(lab.Config{Repository: repo, Logger: log})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	source := ready.New(l, log)
	built, err := source.Build(ctx, s.in, strings.TrimPrefix(s.pkg, "./"), true)
	if err != nil {
		return nil, err
	}
	config, err := source.Config(ctx, s.in)
	if err != nil {
		return nil, err
	}
	m, err := source.Start(ctx, s.in, config, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return s.exec(ctx, m, built)
}

// exec puts the program that was built into a machine and runs it.
func (s suite) exec(ctx context.Context, m *machine.Machine, built string) ([]byte, error) {
	file, err := os.Open(built)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := m.Put(ctx, program, 0o755, file); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out bytes.Buffer
	code, err := m.Exec(ctx, control.Command{
		Args: []string{program, "-test.run=^$", "-test.bench=" + s.bench, "-test.benchtime=" + s.times},
		// The last names the machine to package testenv/vm.
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "PHONEHOST_TEST_REQUIRE=all", "PHONEHOST_TEST_VM_GUEST=" + s.in.String()},
		Dir: "/tmp", Stdout: &out, Stderr: &out,
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return out.Bytes(), err
}
