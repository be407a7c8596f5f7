package logging

import (
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalSink writes to the journal's own socket. Every attribute is a field,
// OPENCT_DEVICE, OPENCT_DRIVER, OPENCT_READER ...; the message is the line that
// the other places get.
type journalSink struct {
	ident    string
	send     func(message string, p journal.Priority, vars map[string]string) error
	fallback sink // standard error is the journal as well, without fields
}

func (s *journalSink) write(e entry) error {
	vars := map[string]string{}
	if s.ident != "" {
		vars["SYSLOG_IDENTIFIER"] = s.ident
	}
	for _, f := range e.fields {
		vars[fieldName(f.key)] = f.value
	}
	return both(s.send(e.text, priority(e.level), vars), s.fallback, e)
}

// fieldName makes a field's name of a key. The journal takes upper-case letters,
// digits and underscores, at most 64 of them.
func fieldName(key string) string {
	name := "OPENCT_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), 64)]
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
