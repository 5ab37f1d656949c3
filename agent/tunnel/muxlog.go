package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// muxLogger passes yamux's lines to slog. All of them are for debugging: what matters of them comes back as an error, and a
// hostile peer can provoke any number of them.
type muxLogger struct{ logger *slog.Logger }

func (l muxLogger) Print(v ...any)   { l.write(func() string { return fmt.Sprint(v...) }) }
func (l muxLogger) Println(v ...any) { l.write(func() string { return fmt.Sprintln(v...) }) }
func (l muxLogger) Printf(format string, v ...any) {
	l.write(func() string { return fmt.Sprintf(format, v...) })
}

func (l muxLogger) write(text func() string) {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("yamux", "text", strings.TrimSpace(text()))
	}
}
