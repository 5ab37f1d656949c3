package access

import (
	"maps"
	"slices"
)

// Methods returns the full names of the RPCs that the role table knows.
func Methods() []string { return slices.Collect(maps.Keys(required)) }
