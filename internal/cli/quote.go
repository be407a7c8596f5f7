package cli

import "strings"

// Quote makes a text one word of a command that a user is told to type: texts that
// devices and other programs have made must not be commands of their own there
// (POSIX Shell Command Language, 2.2.2).
func Quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// special says whether a character may mean something to a shell.
func special(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("/:.,@%+=_-", r)
}
