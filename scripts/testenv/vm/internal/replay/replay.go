package replay

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Config says what is replayed, and below what.
type Config struct {
	// T is the test whose sub-tests the others become. Its goroutine calls Finish.
	T *testing.T
	// Root is the full name, in the other process, of the test that T stands for. Empty stands for the process: all its tests become
	// sub-tests of T.
	Root string
	// Artifacts, if not nil, is called when a test that keeps artifacts in the directory path of the other process has ended.
	Artifacts func(t *testing.T, path string)
	// Skipped, if not nil, is called for each test that was skipped, with its full name in the other process.
	Skipped func(name string)
}

// Replay repeats the tests of another process. It is an io.Writer for that process's output.
type Replay struct {
	config Config
	parser *Parser
	root   *node
	nodes  map[string]*node // by full name in the other process, until they end
	tests  int              // how many have run below the root
	ended  bool             // the process said that all tests are over
	before Kind             // how a test around the root ended
	wg     sync.WaitGroup
}

// node is a test that runs.
type node struct {
	t         *testing.T // set before started is closed
	name      string
	parent    *node
	began     bool // only the root has not begun from the start
	result    Kind // 0 while it runs
	children  sync.WaitGroup
	artifacts []string

	started, over chan struct{}
}

// New begins a replay.
func New(config Config) *Replay {
	r := &Replay{config: config, nodes: make(map[string]*node)}
	r.root = &node{t: config.T, name: config.Root, began: config.Root == ""}
	r.parser = NewParser(r.event)
	return r
}

// Write takes the next output of the process. It never fails.
func (r *Replay) Write(p []byte) (int, error) { return r.parser.Write(p) }

func (r *Replay) event(e Event) {
	n := r.find(e.Test)
	switch e.Kind {
	case Run:
		r.run(e.Test)
	case Output:
		n.print(e.Text)
	case Attr:
		n.t.Attr(e.Key, e.Value)
	case Artifacts:
		n.artifacts = append(n.artifacts, e.Value)
	case Pass, Fail, Skip:
		r.result(n, e)
	case End:
		r.ended = true
	}
}

// find returns the running test called name, or the nearest one around it; the root for what is outside.
func (r *Replay) find(name string) *node {
	for {
		if n, ok := r.nodes[name]; ok {
			return n
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return r.root
		}
		name = name[:i]
	}
}

// below returns the name of a test relative to the running test n, and whether it is below it.
func (n *node) below(name string) (string, bool) {
	if n.name == "" {
		return name, name != ""
	}
	return strings.CutPrefix(name, n.name+"/")
}

// run begins a sub-test.
func (r *Replay) run(name string) {
	if name == r.config.Root {
		r.root.began = true
		return
	}
	parent := r.find(name)
	short, ok := parent.below(name)
	if !ok {
		return // a test around the root
	}
	r.tests++
	n := &node{name: name, parent: parent, began: true, started: make(chan struct{}), over: make(chan struct{})}
	returned := make(chan struct{})
	parent.children.Add(1)
	r.wg.Go(func() {
		defer parent.children.Done()
		defer close(returned)
		parent.t.Run(short, n.body)
	})
	select {
	case <-n.started:
		r.nodes[name] = n
	case <-returned:
		// This process does not run the test, as its flags say so; the parent hears of its end.
	}
}

// body is the sub-test in this process: it lasts as long as the one in the other.
func (n *node) body(t *testing.T) {
	n.t = t
	close(n.started)
	<-n.over
	n.children.Wait()
	switch n.result {
	case Fail:
		t.Fail()
	case Skip:
		t.SkipNow()
	}
}

// print writes what a test printed. Logs come with the indentation that T.Output gives them again.
func (n *node) print(text []byte) {
	n.t.Output().Write(bytes.TrimPrefix(text, []byte("    ")))
}

// result ends the running test n, if it is n that e tells of.
func (r *Replay) result(n *node, e Event) {
	switch {
	case n != r.root:
		if n.name == e.Test {
			r.end(n, e.Kind)
		} else if e.Kind == Fail {
			n.t.Fail() // of a sub-test that this process did not run
		}
	case e.Test == r.config.Root:
		n.result = e.Kind
	case strings.HasPrefix(r.config.Root, e.Test+"/"):
		r.before = e.Kind
	case e.Kind == Fail:
		n.t.Fail()
	}
}

// end lets the sub-test of this process end too.
func (r *Replay) end(n *node, result Kind) {
	delete(r.nodes, n.name)
	if r.config.Artifacts != nil {
		for _, path := range n.artifacts {
			r.config.Artifacts(n.t, path)
		}
	}
	if result == Skip && r.config.Skipped != nil {
		r.config.Skipped(n.name)
	}
	n.result = result
	close(n.over)
}

// Exit tells how the process ended. Exactly one of the two is of interest.
type Exit struct {
	// Code is its exit code, 128 and the number of the signal if one ended it.
	Code int
	// Err says why nobody knows how the process ended: the machine died, or time was up.
	Err error
}

func (e Exit) String() string {
	switch {
	case e.Err != nil:
		return e.Err.Error()
	case e.Code > 128:
		return fmt.Sprintf("the test process was ended by signal %d", e.Code-128)
	}
	return fmt.Sprintf("the test process exited with code %d", e.Code)
}

// Finish ends the replay after the process has ended: tests that still ran have failed, and T gets its own result.
// T's goroutine calls it, once; like T.SkipNow it may not return.
func (r *Replay) Finish(exit Exit) {
	t := r.config.T
	t.Helper()
	r.parser.Close()
	for len(r.nodes) > 0 {
		r.cutOff(exit)
	}
	r.wg.Wait()
	if r.config.Artifacts != nil {
		for _, path := range r.root.artifacts {
			r.config.Artifacts(t, path)
		}
	}
	if exit.Err != nil {
		t.Error(exit.Err)
		return
	}
	if r.config.Root == "" {
		r.finishProcess(exit)
	} else {
		r.finishTest(exit)
	}
}

// cutOff fails the running tests that have no running test below them.
func (r *Replay) cutOff(exit Exit) {
	parents := make(map[*node]bool)
	for _, n := range r.nodes {
		parents[n.parent] = true
	}
	for _, n := range r.nodes {
		if !parents[n] {
			fmt.Fprintf(n.t.Output(), "%s in the middle of this test\n", exit)
			r.end(n, Fail)
		}
	}
}

// finishProcess gives T the result of a whole test process.
func (r *Replay) finishProcess(exit Exit) {
	t := r.config.T
	t.Helper()
	switch {
	case exit.Code != 0 && !t.Failed():
		t.Errorf("no test failed, but %s", exit)
	case exit.Code != 0:
		t.Fail()
	case !r.ended:
		t.Error("the test process ended well, but did not say that its tests were over")
	case r.tests == 0:
		t.Error("the test process ran no tests")
	}
}

// finishTest gives T the result of the one test that it stands for.
func (r *Replay) finishTest(exit Exit) {
	t := r.config.T
	t.Helper()
	switch {
	case !r.root.began && r.before == Skip && exit.Code == 0:
		t.Skip("the test was skipped there before it came to this sub-test")
	case !r.root.began:
		t.Errorf("the test never came to %s, and %s", r.config.Root, exit)
	case r.root.result == 0:
		t.Errorf("%s in the middle of this test", exit)
	case r.root.result == Fail:
		t.Fail()
	case exit.Code != 0 && !t.Failed():
		t.Errorf("the test ended well, but %s", exit)
	case r.root.result == Skip:
		t.SkipNow()
	}
}
