package logging

import (
	"io"
	"log/slog"
	"sync"
)

// textSink writes lines (C OpenCT's error.c): "Error: " and "Debug: " are C
// OpenCT's, what only informs has no prefix.
type textSink struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *textSink) write(e entry) error {
	prefix := ""
	switch {
	case e.level >= slog.LevelError:
		prefix = "Error: "
	case e.level >= slog.LevelWarn:
		prefix = "Warning: "
	case e.level < slog.LevelInfo:
		prefix = "Debug: "
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := io.WriteString(s.w, prefix+e.text+"\n")
	return err
}
