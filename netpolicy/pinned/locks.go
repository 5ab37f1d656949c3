package pinned

import "sync"

// Locks are locks by number. Those of different numbers do not hold one another up.
type Locks struct {
	mu   sync.Mutex
	held map[uint32]*sync.Mutex
}

// Lock locks a number and returns what unlocks it. A lock that was made stays: numbers are slots, which are few.
func (k *Locks) Lock(number uint32) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[uint32]*sync.Mutex{}
	}
	m, found := k.held[number]
	if !found {
		m = new(sync.Mutex)
		k.held[number] = m
	}
	k.mu.Unlock()
	m.Lock()
	return m.Unlock
}
