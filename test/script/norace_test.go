//go:build !race

package script

var buildFlags []string
