package logging

import (
	"log/slog"
	"log/syslog"
)

// syslogger is what *syslog.Writer has and syslogSink uses.
type syslogger interface {
	Warning(string) error
	Info(string) error
	Debug(string) error
}

// syslogSink writes to syslog as C OpenCT does: facility daemon, the pid in the
// tag, errors as warnings (C OpenCT's ct_error, error.c).
type syslogSink struct{ w syslogger }

func newSyslog(ident string) (sink, error) {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, ident)
	if err != nil {
		return nil, err
	}
	return &syslogSink{w}, nil
}

func (s *syslogSink) write(e entry) error {
	switch {
	case e.level >= slog.LevelWarn:
		return s.w.Warning(e.text)
	case e.level >= slog.LevelInfo:
		return s.w.Info(e.text)
	}
	return s.w.Debug(e.text)
}
