// Files by slide_id: of an arm of a run (geojson, work/maps), of `tlskit predict` (geojson, maps), or lying there
def filesIn = { folder, ending ->
    def files = folder == null ? [] : (folder.listFiles() ?: []).findAll { it.isFile() && it.getName().endsWith(ending) }
    return files.collectEntries { [(it.getName()[0..<-ending.length()]): it] }
}
def look = { path ->
    def folder = new File(path)
    if (!folder.isDirectory()) {
        println "There is no folder " + folder + ": set \"results\" at the top of this script."
        return null
    }
    def first = { names -> names.collect { new File(folder, it) }.find { it.isDirectory() } }
    def geojsonFolder = first(["geojson"]) ?: folder, mapFolder = first(["work/maps", "maps"]) ?: folder
    def files = [name: folder.getName(), geojsons: filesIn(geojsonFolder, ".geojson"), maps: filesIn(mapFolder, ".tif")]
    if (files.geojsons.isEmpty() && files.maps.isEmpty()) {
        def arms = (folder.listFiles() ?: []).findAll { new File(it, "geojson").isDirectory() }.collect { it.getName() }
        println "There are neither outlines nor maps in " + folder + "." +
            (arms.isEmpty() ? "" : " It is a run with the arms " + arms.sort().join(", ") + ": name one of them.")
        return null
    }
    println files.geojsons.size() + " files of outlines in " + geojsonFolder + ", " + files.maps.size() + " maps in " + mapFolder
    return files
}
def found = look(results)
