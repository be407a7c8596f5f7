package card

var (
	_ Card = (*Echo)(nil)
	_ Card = (*PIV)(nil)
	_ Card = (*CardOS)(nil)
)
