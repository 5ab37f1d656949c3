package applet

import (
	"context"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/touch"
	"github.com/u-root/u-root/pkg/core/xargs"
)

// uroot returns the commands that u-root has.
func uroot() map[string]command {
	return map[string]command{
		"base64": adapt(base64.New), "cat": adapt(cat.New), "chmod": adapt(chmod.New), "cp": adapt(cp.New), "find": adapt(find.New),
		"ls": ls, "mkdir": adapt(mkdir.New), "mktemp": adapt(mktemp.New), "mv": adapt(mv.New), "rm": adapt(rm.New),
		"sha256sum": adapt(shasum.New, "-a", "256"), "touch": adapt(touch.New), "xargs": adapt(xargs.New),
	}
}

func adapt(make func() core.Command, first ...string) command {
	return func(ctx context.Context, s Streams, args []string) error {
		c := make()
		c.SetIO(s.In, s.Out, s.Err)
		return c.RunContext(ctx, append(first, args...)...)
	}
}
