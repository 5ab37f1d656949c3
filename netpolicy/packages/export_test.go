package packages

import "time"

// SetPace has lists looked at by other clocks. It is called before Follow.
func (w *Watcher) SetPace(recheck, lasting, patience time.Duration) {
	w.pace.recheck, w.pace.lasting, w.pace.patience = recheck, lasting, patience
}

// Watches counts the watches, and those that followers have of them.
func (w *Watcher) Watches() (watches, followed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, of := range w.watches {
		followed += len(of)
	}
	return len(w.watches), followed
}

// Adding counts the calls that the guests' file systems hold.
func (w *Watcher) Adding() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.adding
}

// Dispatch takes events as the kernel writes them.
func (w *Watcher) Dispatch(events []byte) { w.dispatch(events) }

// Gap is what lies between two looks.
var Gap = usual.gap
