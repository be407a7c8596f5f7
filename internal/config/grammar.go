package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The grammar (spec/cli.md, 4.1):
//
//	file      := statement*
//	statement := NAME [ "=" ] [ VALUE ] [ "{" statement* "}" ] ( ";" | "," )
//
// Names and values are words between white space and the characters = ; , { }.
// # starts a comment where a word could start, and only there: a#b is one word.
// Three things are allowed that C OpenCT refused: a statement without value or
// group may end with ; as well, the last one of a group needs no end at all, and
// a word may be put in double quotes, which have no escapes and end on their line.

// node is one statement.
type node struct {
	name, value string
	hasValue    bool
	group       []*node
	hasGroup    bool
	line        int
}

// Error is a mistake in the file.
type Error struct {
	File string
	Line int // from 1
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// ErrSyntax: the file does not follow the grammar.
var ErrSyntax = errors.New("syntax error")

const (
	maxSize  = 1 << 20 // bytes of a file
	maxDepth = 32      // groups in groups
)

type tokenKind int

const (
	end tokenKind = iota
	word
	punctuation // = ; , { }
)

type token struct {
	kind tokenKind
	text string
	line int
}

func (t token) is(punct string) bool { return t.kind == punctuation && strings.Contains(punct, t.text) }

type parser struct {
	file string
	src  string
	line int // of the next character
	tok  token
}

// parse reads a whole file.
func parse(file string, src []byte) ([]*node, error) {
	p := &parser{file: file, src: string(src), line: 1}
	if len(src) > maxSize {
		return nil, p.fail(1, "%w: file is longer than %d bytes", ErrSyntax, maxSize)
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	nodes, err := p.statements(0)
	if err == nil && p.tok.kind != end {
		err = p.unexpected() // a } too many
	}
	return nodes, err
}

func (p *parser) fail(line int, format string, args ...any) error {
	return &Error{File: p.file, Line: line, Err: fmt.Errorf(format, args...)}
}

func (p *parser) unexpected() error {
	if p.tok.kind == end {
		return p.fail(p.tok.line, "%w: unexpected end of file", ErrSyntax)
	}
	return p.fail(p.tok.line, "%w: unexpected token %s", ErrSyntax, strconv.Quote(p.tok.text))
}

// statements reads up to the end of the file or of the group; p.tok is then the
// end or the }.
func (p *parser) statements(depth int) ([]*node, error) {
	var nodes []*node
	for p.tok.kind == word {
		n, err := p.statement(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		if p.tok.is(";,") {
			if err := p.next(); err != nil {
				return nil, err
			}
			continue
		}
		if depth > 0 && p.tok.is("}") {
			break
		}
		return nil, p.unexpected()
	}
	return nodes, nil
}

func (p *parser) statement(depth int) (*node, error) {
	n := &node{name: p.tok.text, line: p.tok.line}
	if err := p.next(); err != nil {
		return nil, err
	}
	assigned := p.tok.is("=")
	if assigned {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if p.tok.kind == word {
		n.value, n.hasValue = p.tok.text, true
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if p.tok.is("{") {
		if depth == maxDepth {
			return nil, p.fail(p.tok.line, "%w: more than %d groups in each other", ErrSyntax, maxDepth)
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		var err error
		if n.group, err = p.statements(depth + 1); err != nil {
			return nil, err
		}
		n.hasGroup = true
		if p.tok.kind == end {
			return nil, p.fail(p.tok.line, "%w: unexpected end of file, the group of line %d is open", ErrSyntax, n.line)
		}
		if !p.tok.is("}") {
			return nil, p.unexpected()
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if assigned && !n.hasValue && !n.hasGroup {
		return nil, p.unexpected() // name = ;
	}
	return n, nil
}

const (
	blanks  = " \t\n\v\f\r"
	special = "=;,{}"
)

// next reads the next token into p.tok.
func (p *parser) next() error {
	for p.src != "" {
		switch c := p.src[0]; {
		case c == '\n':
			p.line++
			p.src = p.src[1:]
		case strings.IndexByte(blanks, c) >= 0:
			p.src = p.src[1:]
		case c == '#':
			p.src = p.src[lineEnd(p.src):]
		case c == 0:
			return p.fail(p.line, "%w: NUL byte", ErrSyntax)
		case strings.IndexByte(special, c) >= 0:
			p.take(punctuation, 1, 0)
			return nil
		case c == '"':
			n := strings.IndexByte(p.src[1:lineEnd(p.src)], '"')
			if n < 0 {
				return p.fail(p.line, `%w: unexpected token "\"", the quotes are not closed on this line`, ErrSyntax)
			}
			p.src = p.src[1:]
			p.take(word, n, 1)
			return nil
		default:
			n := strings.IndexAny(p.src, blanks+special+"\x00")
			if n < 0 {
				n = len(p.src)
			}
			p.take(word, n, 0)
			return nil
		}
	}
	p.tok = token{kind: end, line: p.line}
	return nil
}

// take makes n bytes the token and skips some behind it.
func (p *parser) take(kind tokenKind, n, skip int) {
	p.tok = token{kind: kind, text: p.src[:n], line: p.line}
	p.src = p.src[n+skip:]
}

func lineEnd(s string) int {
	if n := strings.IndexByte(s, '\n'); n >= 0 {
		return n
	}
	return len(s)
}
