package debian

import (
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/asset"
)

// Archive takes packages from the mirror.
type Archive struct {
	cache  *asset.Cache
	mirror string
	log    *slog.Logger
}

// Open makes an Archive. It asks nobody: whether the mirror answers shows when it is needed.
func Open(cfg Config) (*Archive, error) {
	if cfg.Cache == nil {
		return nil, fmt.Errorf("open the Debian archive: it needs a cache: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Archive{cache: cfg.Cache, mirror: cfg.Mirror, log: cfg.Logger}, nil
}
