// Of all readers that open a map take the one that sees most of its levels: some see only the largest
def builderOf = { file ->
    def best = null
    int most = 0
    for (reader in ImageServerProvider.getInstalledImageServerBuilders(BufferedImage.class)) {
        try {
            def support = reader.checkImageSupport(file.toURI())
            for (builder in (support == null || support.getSupportLevel() <= 0 ? [] : support.getBuilders())) {
                def server = builder.build()
                if (server.nResolutions() > most) {
                    most = server.nResolutions()
                    best = builder
                }
                server.close()
            }
        } catch (Throwable error) {
            // This reader cannot; another may
        }
    }
    if (best == null)
        throw new IOException("no reader of QuPath opens " + file)
    return best
}
