package netpolicy

// Busy returns how many phones' locks there are.
func (e *Engine) Busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.busy)
}

// KernelPolicies returns how many policies the kernel has.
func (e *Engine) KernelPolicies() (int, error) {
	all, err := e.data.LoadedPolicies()
	return len(all), err
}
