package qupath.lib.common

class GeneralTools {
    static java.nio.file.Path toPath(URI uri) { uri.getScheme() == "file" ? java.nio.file.Paths.get(uri) : null }
}
