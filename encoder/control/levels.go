package control

import "slices"

// openLevels lists the levels that are open and have not failed, in order.
func (c *conn) openLevels() []uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []uint32
	for number, o := range c.levels {
		if !o.failed {
			list = append(list, number)
		}
	}
	slices.Sort(list)
	return list
}

// closeLevel ends a level, waits for it and forgets it. Packets of it may leave until it has ended.
func (c *conn) closeLevel(number uint32) {
	c.mu.Lock()
	o := c.levels[number]
	delete(c.levels, number)
	c.mu.Unlock()
	if o == nil {
		return
	}
	o.level.Close()
	c.mu.Lock()
	failed := o.failed // it may have failed until Close returned
	c.mu.Unlock()
	if !failed {
		c.server.levels.add(-1)
		c.log.Info("level closed", "level", number)
	}
}

// sweep forgets levels that failed.
func (c *conn) sweep() {
	c.mu.Lock()
	var failed []uint32
	for number, o := range c.levels {
		if o.failed {
			failed = append(failed, number)
		}
	}
	c.mu.Unlock()
	for _, number := range failed {
		c.closeLevel(number)
	}
}

// closeLevels ends all levels.
func (c *conn) closeLevels() {
	c.mu.Lock()
	numbers := make([]uint32, 0, len(c.levels))
	for number := range c.levels {
		numbers = append(numbers, number)
	}
	c.mu.Unlock()
	for _, number := range numbers {
		c.closeLevel(number)
	}
}
