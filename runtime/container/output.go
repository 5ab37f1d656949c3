package container

import (
	"io"
	"reflect"
	"sync"
)

// outputs are the writers that a process's two streams are copied to, each by a goroutine of containerd's client. That calls ReadFrom
// where a writer has one: it would go past a Write that bounds what it keeps, and twice at once where both streams have one writer.
// So nothing but Write of the options' writers is called, and never twice at once of the same.
func outputs(stdout, stderr io.Writer) (*output, *output) {
	if same(stdout, stderr) {
		both := &output{w: stdout}
		return both, both
	}
	return &output{w: stdout}, &output{w: stderr}
}

// same reports whether two writers are one, of those that can be compared.
func same(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && a == b
}

// output is the one way to a writer, which may be nil: what is written then is discarded. It may be used by several goroutines.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if o.w == nil {
		return len(p), nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}
