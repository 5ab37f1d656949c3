package command

import "sync"

// head keeps the beginning of what is written to it, and counts the rest. It never fails: a command is not ended by what it prints.
type head struct {
	keep int

	mu      sync.Mutex
	data    []byte
	dropped uint64
}

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(p), h.keep-len(h.data))
	h.data = append(h.data, p[:n]...)
	h.dropped += uint64(len(p) - n)
	return len(p), nil
}

// kept returns what was kept and how many bytes were not.
func (h *head) kept() ([]byte, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.data, h.dropped
}
