# Makes Info.plist of ids.tsv and the template: awk -v VERSION=... -f plist.awk ids.tsv Info.plist.in
function escape(s) {
	gsub(/&/, "\\&amp;", s)
	gsub(/</, "\\&lt;", s)
	return s
}
function item(s) { return "\t\t<string>" s "</string>" }
BEGIN { FS = "\t" }
FNR == NR {
	if ($0 ~ /^#/ || $0 == "")
		next
	if (NF != 3 || $1 !~ /^[0-9a-fA-F]+$/ || $2 !~ /^[0-9a-fA-F]+$/ || length($1 $2) != 8 || $3 == "") {
		print FILENAME ":" FNR ": expected vendor, product, name" > "/dev/stderr"
		bad = 1
		exit 1
	}
	newline = n++ ? "\n" : ""
	vendors = vendors newline item("0x" toupper($1))
	products = products newline item("0x" toupper($2))
	names = names newline item(escape($3))
	next
}
/^@VENDORS@$/ { print vendors; next }
/^@PRODUCTS@$/ { print products; next }
/^@NAMES@$/ { print names; next }
{ gsub(/@VERSION@/, VERSION); print }
