package vm

import (
	"context"
	"fmt"
	"sync"
)

// compiled remembers what this test process has built for machines, so that several targets of an architecture wait for one build.
var compiled struct {
	mu   sync.Mutex
	done map[compilation]*result
}

// compilation is one thing to build.
type compilation struct {
	pkg, arch string
	test      bool
	system    bool
}

// result is a build that runs or has ended; over is closed then.
type result struct {
	over chan struct{}
	path string
	err  error
}

// compile builds a package for the target and returns the path of what was built. Several may build at once; each thing is built once
// by a test process, also if it fails.
func (p *process) compile(ctx context.Context, pkg string, test bool) (string, error) {
	what := compilation{pkg: pkg, arch: p.target.Arch, test: test, system: p.target.System}
	compiled.mu.Lock()
	r, found := compiled.done[what]
	if !found {
		r = &result{over: make(chan struct{})}
		if compiled.done == nil {
			compiled.done = make(map[compilation]*result)
		}
		compiled.done[what] = r
	}
	compiled.mu.Unlock()
	if !found {
		r.path, r.err = p.provider.build(ctx, p.target, pkg, test)
		close(r.over)
	}
	select {
	case <-r.over:
		return r.path, r.err
	case <-ctx.Done():
		return "", fmt.Errorf("wait for the build of %s: %w", pkg, ctx.Err())
	}
}
