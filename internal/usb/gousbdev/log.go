//go:build cgo

package gousbdev

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
)

var redirectOnce sync.Once

// redirectLog takes the standard library's global log, which gousb writes to
// and which this project does not use otherwise, to the first opener's logger.
func redirectLog(to *slog.Logger) {
	redirectOnce.Do(func() {
		log.SetFlags(0)
		log.SetOutput(logWriter(to))
	})
}

func logWriter(to *slog.Logger) io.Writer {
	// slog's default handler itself writes to the global log: a circle.
	if fmt.Sprintf("%T", to.Handler()) == "*slog.defaultHandler" {
		return io.Discard
	}
	return debugWriter{to}
}

// debugWriter logs each line at debug level.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		w.log.Debug("gousb", "text", string(bytes.TrimSpace(line)))
	}
	return len(p), nil
}
